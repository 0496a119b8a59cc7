#define TOKENFLOW_KERNELS kScalarKernels
#include "cpu/kernels.inc"
