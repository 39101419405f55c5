"""A CUDA device that does not exist, for the CPU wheel: whole training steps at real sizes, on tensors without contents.

A library of 50 lines of C++ (guard.cpp) makes torch accept the device, FakeTensorMode computes shapes, dtypes and devices,
and device.py counts what a GPU would have been asked to do. Everything runs in child processes (__main__.py): the library
changes the whole process. It says nothing of numbers, times, kernels or NCCL.
"""
