"""Export the U-Net to a new folder that stock diffusers loads, without this repository.

    python examples/export_to_diffusers.py digits

Then `DDPMPipeline.from_pretrained("digits")()` draws. The U-Net is in safetensors."""

import sys
from pathlib import Path
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn.init import dirac_

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from inference import load_models, make_sampler
from support import cli, files


def stock_pipeline(unet):
    """`unet` as a DDPMPipeline. Its UNet2DModel has the same layers, so it returns v, not eps."""
    stock = UNet2DModel.from_config(unet.config).eval()
    # the convolution after each upsampling, which `UNet` leaves out, is the identity
    identity = {k: dirac_(w) if w.ndim == 4 else w.zero_() for k, w in stock.state_dict().items()}
    stock.load_state_dict(identity | unet.state_dict())
    ours = make_sampler("ddpm", num_steps=1, clip=True).config
    changed = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    return DDPMPipeline(stock, DDPMScheduler.from_config(ours, **changed))


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="DIR", help="the folder to make")
    cli.add_models_flag(parser)
    args = parser.parse_args(argv)
    with files.atomic_folder(args.folder) as folder:
        stock_pipeline(load_models(args.models, guide=False)[0]).save_pretrained(folder)
    print(f'{args.folder}: draw with DDPMPipeline.from_pretrained("{args.folder}")()')


if __name__ == "__main__":
    main()
