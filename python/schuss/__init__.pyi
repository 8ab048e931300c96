# Written by tools/stubs.py.
from schuss import _core as _core
from schuss import catalogue as catalogue
from schuss import clipping as clipping
from schuss import math as math
from schuss import reference as reference
from schuss import schedules as schedules
from schuss._runtime import get_num_threads as get_num_threads
from schuss._runtime import instruction_sets as instruction_sets
from schuss._runtime import set_num_threads as set_num_threads
from schuss._runtime import show_runtime as show_runtime
from schuss._runtime import use_isa as use_isa
from schuss.checkpoint import CheckpointError as CheckpointError
from schuss.clipping import ClipNorm as ClipNorm
from schuss.optimizer import Group as Group
from schuss.optimizer import Optimizer as Optimizer
from schuss.optimizer import StateError as StateError
from schuss.optimizer import StepInfo as StepInfo
from schuss.optimizers.adagrad import Adagrad as Adagrad
from schuss.optimizers.adahessian import AdaHessian as AdaHessian
from schuss.optimizers.adam import Adam as Adam
from schuss.optimizers.adam_h import AdamH as AdamH
from schuss.optimizers.adam_mini import AdamMini as AdamMini
from schuss.optimizers.adamw import AdamW as AdamW
from schuss.optimizers.amsgrad import AMSGrad as AMSGrad
from schuss.optimizers.lamb import LAMB as LAMB
from schuss.optimizers.lion import Lion as Lion
from schuss.optimizers.momentum import Momentum as Momentum
from schuss.optimizers.noisy_sgd import NoisySGD as NoisySGD
from schuss.optimizers.novograd import NovoGrad as NovoGrad
from schuss.optimizers.polyak_sgd import PolyakSGD as PolyakSGD
from schuss.optimizers.prodigy import Prodigy as Prodigy
from schuss.optimizers.rmsprop import RMSprop as RMSprop
from schuss.optimizers.schedule_free_sgd import ScheduleFreeSGD as ScheduleFreeSGD
from schuss.optimizers.sgd import SGD as SGD

__version__: str

def optimizers() -> dict[str, type[Optimizer]]: ...
