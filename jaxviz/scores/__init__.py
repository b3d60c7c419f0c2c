"""What to explain and what to maximize: functions `score(params, images) -> (n,)` that add and scale."""

from jaxviz.scores._algebra import Summable as Summable
from jaxviz.scores._algebra import score as score
from jaxviz.scores._caricature import caricature as caricature
from jaxviz.scores._classes import logit as logit
from jaxviz.scores._classes import probability as probability
from jaxviz.scores._direction import direction as direction
from jaxviz.scores._guides import diversity as diversity
from jaxviz.scores._guides import resemblance as resemblance
from jaxviz.scores._likeness import gram as gram
from jaxviz.scores._likeness import match_features as match_features
from jaxviz.scores._likeness import match_grams as match_grams
from jaxviz.scores._units import channel as channel
from jaxviz.scores._units import energy as energy
from jaxviz.scores._units import neuron as neuron
