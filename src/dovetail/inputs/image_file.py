"""Image files, decoded: turned as the camera was held, without transparency."""

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from dovetail.errors import UsageError
from dovetail.inputs.images import Image


def read_image(path: str) -> Image:
    """The pixels of an image file, uint8, height x width x 3.

    Raises:
        UsageError: there is no such file, or it holds no image that Pillow reads.
    """
    try:
        with Pillow.open(path) as image:
            turned = ImageOps.exif_transpose(image) or image
            return np.asarray(turned.convert("RGB"))
    except FileNotFoundError:
        raise UsageError(
            f"there is no image `{path}`", hint="give the path of a JPEG, PNG or WebP file"
        ) from None
    except UnidentifiedImageError:
        raise UsageError(f"`{path}` is no image that can be read", hint="JPEG, PNG and WebP can") from None
    except (OSError, Pillow.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UsageError(
            f"the image `{path}` cannot be read: {error}", hint="open it elsewhere and save it again"
        ) from None
