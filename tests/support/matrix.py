"""The backbones for tests of common properties."""

from backbones.resnet import VARIANTS
from backbones.torchvision_adapter import torchvision_names
from backbones.vit import VITS

TIMM = (
    *("convnextv2_atto", "convnext_atto", "resnet26d", "resnet50.a1_in1k", "efficientnet_b0", "mobilenetv3_small_100"),
    *("vgg11", "densenet121", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_tiny_tf_224"),
    *("vit_tiny_patch16_224", "deit3_small_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch14_dinov2"),
    *("samvit_base_patch16", "hrnet_w18_small", "dla34", "res2net50_26w_4s", "pvt_v2_b0", "mvitv2_tiny"),
    *("edgenext_xx_small", "mobilevit_xxs", "cspresnet50", "xception41", "fastvit_t8", "efficientvit_b0", "nfnet_l0"),
    *("regnety_002", "focalnet_tiny_srf", "davit_tiny", "nextvit_small", "ghostnet_050", "repvgg_a0", "rexnet_100"),
    *("twins_pcpvt_small", "poolformer_s12", "caformer_s18", "tiny_vit_5m_224", "selecsls42", "vovnet39a"),
)
# The largest RegNet has 640 M parameters.
NAMES = (
    *VARIANTS,
    *(n for n in torchvision_names() if "128gf" not in n),
    *VITS,
    "vitdet_b",
    *(f"timm/{name}" for name in TIMM),
)
