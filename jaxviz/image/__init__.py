"""Images in, pictures out: array functions, reading, writing and checks. Knows nothing about networks."""

from jaxviz.image._arrays import blur as blur
from jaxviz.image._arrays import montage as montage
from jaxviz.image._arrays import normalize as normalize
from jaxviz.image._arrays import overlay as overlay
from jaxviz.image._arrays import resize as resize
from jaxviz.image._checks import ImageError as ImageError
from jaxviz.image._draw import draw as draw
from jaxviz.image._files import load_image as load_image
from jaxviz.image._files import save_image as save_image
from jaxviz.image._video import save_video as save_video
