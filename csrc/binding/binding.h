/* binding.h - what the files of the binding share.  Only this folder knows Python. */
#ifndef WM_BINDING_H
#define WM_BINDING_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL wm_numpy
#ifndef WM_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include "../tape/plan.h"

typedef struct {
    PyTypeObject *Tensor, *Tape, *Plan, *Arena;
} module_state;

typedef struct { PyObject_HEAD wm_tensor *t; } TensorObject;

extern PyType_Spec wm_Tensor_spec, wm_Tape_spec, wm_Plan_spec, wm_Arena_spec;
extern PyMethodDef wm_dlpack_functions[], wm_tape_functions[], wm_train_functions[];

PyObject *wm_raise(void);                                       /* wm_error as an exception; NULL */
PyObject *wm_wrap(PyTypeObject *Tensor, wm_tensor *t);          /* steals t; raises if t is NULL */
wm_tensor *wm_unwrap(PyTypeObject *Tensor, PyObject *, const char *what);   /* borrowed; NULL with TypeError */
int wm_awake(const wm_tensor *);                                /* 0, or -1 with an exception: a checkpoint's, without numbers */
void wm_export_begins(wm_memory *);                             /* somebody else may write to it now ... */
void wm_export_ends(wm_memory *);                               /* ... and no longer */
PyObject *wm_dlpack(TensorObject *, PyObject *args, PyObject *kw);
PyObject *wm_dlpack_device(TensorObject *, PyObject *unused);
int wm_device_from(PyObject *name, const char *who);             /* 'cpu', 'cuda'; opens it; -1 with an exception */
int wm_add_ops(PyObject *module, module_state *);
module_state *wm_state_of(PyObject *self);                      /* through the type of self */
#endif
