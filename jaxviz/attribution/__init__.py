"""Which pixels matter? Maps as large as the image."""

from jaxviz.attribution._attention_relevance import attention_relevance as attention_relevance
from jaxviz.attribution._attention_rollout import attention_rollout as attention_rollout
from jaxviz.attribution._faithfulness import Curve as Curve
from jaxviz.attribution._faithfulness import deletion as deletion
from jaxviz.attribution._faithfulness import insertion as insertion
from jaxviz.attribution._faithfulness import pointing_game as pointing_game
from jaxviz.attribution._grad_cam import grad_cam as grad_cam
from jaxviz.attribution._grad_cam import guided_grad_cam as guided_grad_cam
from jaxviz.attribution._guided import deconvnet as deconvnet
from jaxviz.attribution._guided import guided_backprop as guided_backprop
from jaxviz.attribution._integrated_gradients import IntegratedGradients as IntegratedGradients
from jaxviz.attribution._integrated_gradients import integrated_gradients as integrated_gradients
from jaxviz.attribution._lrp import Relevance as Relevance
from jaxviz.attribution._lrp import lrp as lrp
from jaxviz.attribution._occlusion import occlusion as occlusion
from jaxviz.attribution._rise import rise as rise
from jaxviz.attribution._saliency import gradient as gradient
from jaxviz.attribution._saliency import input_x_gradient as input_x_gradient
from jaxviz.attribution._saliency import saliency as saliency
from jaxviz.attribution._sanity import randomize as randomize
from jaxviz.attribution._sanity import rank_correlation as rank_correlation
from jaxviz.attribution._sanity import sanity_check as sanity_check
from jaxviz.attribution._smoothgrad import smoothgrad as smoothgrad
