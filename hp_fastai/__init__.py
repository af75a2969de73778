__version__ = "0.1.0"

import warnings

# What fastai's import says each time, about lines of its own that torch and pandas have declared old
warnings.filterwarnings('ignore', message='.torch.jit.script. is deprecated')
warnings.filterwarnings('ignore', message="The 'mode.chained_assignment' option is deprecated")
