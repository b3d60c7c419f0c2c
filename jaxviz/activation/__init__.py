"""What do the units respond to? Filters, neighbors, embeddings, patches. Nothing here differentiates."""

from jaxviz.activation._approximate import approximate_neighbors as approximate_neighbors
from jaxviz.activation._facets import Facets as Facets
from jaxviz.activation._facets import facets as facets
from jaxviz.activation._features import Features as Features
from jaxviz.activation._features import features as features
from jaxviz.activation._filters import filters as filters
from jaxviz.activation._grid_layout import grid_layout as grid_layout
from jaxviz.activation._neighbors import Neighbors as Neighbors
from jaxviz.activation._neighbors import neighbors as neighbors
from jaxviz.activation._patches import OtherRunError as OtherRunError
from jaxviz.activation._patches import Patches as Patches
from jaxviz.activation._patches import TopPatches as TopPatches
from jaxviz.activation._patches import top_patches as top_patches
from jaxviz.activation._pca import PCA as PCA
from jaxviz.activation._pca import pca as pca
from jaxviz.activation._pca import pca_colors as pca_colors
from jaxviz.activation._table import save_table as save_table
from jaxviz.activation._tsne import tsne as tsne
from jaxviz.activation._umap import umap as umap
