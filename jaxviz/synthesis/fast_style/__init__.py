"""Fast style: a network trained to paint in one pass."""

from jaxviz.synthesis.fast_style._checkpoints import StyleTraining as StyleTraining
from jaxviz.synthesis.fast_style._files import StyleNet as StyleNet
from jaxviz.synthesis.fast_style._files import export_style_net as export_style_net
from jaxviz.synthesis.fast_style._files import load_style_net as load_style_net
from jaxviz.synthesis.fast_style._files import save_style_net as save_style_net
from jaxviz.synthesis.fast_style._muon import muon as muon
from jaxviz.synthesis.fast_style._net import init_style_net as init_style_net
from jaxviz.synthesis.fast_style._net import style_net as style_net
from jaxviz.synthesis.fast_style._restyle import restyle as restyle
from jaxviz.synthesis.fast_style._train import train_style_net as train_style_net
