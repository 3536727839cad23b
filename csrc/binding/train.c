/* train.c - Arena: all parameters of a model in one block, and the optimiser's one sweep over it (optim/params.h).

   class Arena:
       def __new__(cls, tensors, decays=None): ...
       steps, size
       def adamw(self, lr, beta1, beta2, eps, decay, clip, ema_warms_up) -> (norm, clipped, skipped)
       def shadow(self, ema) -> int         # one more moving average
       def swap(self, shadow)               # exchange it with the values
       def part(self, part, tensor) -> Tensor
       def clear(self)                      # gradients to 0
       def norm(self) -> float                                                            */
#include "binding.h"
#include "../optim/params.h"

typedef struct { PyObject_HEAD wm_params *p; } ArenaObject;

static wm_tensor **tensors_of(module_state *st, PyObject *list, Py_ssize_t n) {
    wm_tensor **t = PyMem_Calloc((size_t)n + 1, sizeof *t);
    if (!t) { PyErr_NoMemory(); return NULL; }
    for (Py_ssize_t i = 0; i < n; i++)
        if (!(t[i] = wm_unwrap(st->Tensor, PyTuple_GET_ITEM(list, i), "Arena: each parameter"))) { PyMem_Free(t); return NULL; }
    return t;
}

static uint8_t *flags_of(PyObject *flags, Py_ssize_t n) {
    if (PyTuple_GET_SIZE(flags) != n) {
        PyErr_Format(PyExc_ValueError, "Arena: decays has %zd flags, there are %zd tensors", PyTuple_GET_SIZE(flags), n);
        return NULL;
    }
    uint8_t *d = PyMem_Calloc((size_t)n + 1, 1);
    if (!d) { PyErr_NoMemory(); return NULL; }
    for (Py_ssize_t i = 0; i < n; i++) d[i] = (uint8_t)(PyObject_IsTrue(PyTuple_GET_ITEM(flags, i)) == 1);
    return d;
}

static PyObject *Arena_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    static char *names[] = {"tensors", "decays", NULL};
    PyObject *tensors, *decays = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|O:Arena", names, &tensors, &decays)) return NULL;
    module_state *st = PyModule_GetState(PyType_GetModule(type));
    PyObject *list = PySequence_Tuple(tensors), *flags = decays == Py_None ? NULL : PySequence_Tuple(decays);
    ArenaObject *o = NULL;
    if (list && (flags || decays == Py_None) && PyTuple_GET_SIZE(list) <= INT32_MAX) {
        Py_ssize_t n = PyTuple_GET_SIZE(list);
        wm_tensor **t = tensors_of(st, list, n);
        uint8_t *d = t && flags ? flags_of(flags, n) : NULL;
        if (t && (d || !flags)) {
            wm_params *p = wm_params_new(t, (int)n, d);
            if (!p) wm_raise();
            else if (!(o = (ArenaObject *)type->tp_alloc(type, 0))) wm_params_free(p);
            else o->p = p;
        }
        PyMem_Free(d);
        PyMem_Free(t);
    }
    Py_XDECREF(flags);
    Py_XDECREF(list);
    return (PyObject *)o;
}

static void Arena_dealloc(ArenaObject *o) {
    PyTypeObject *type = Py_TYPE(o);
    wm_params_free(o->p);
    type->tp_free(o);
    Py_DECREF(type);
}

static PyObject *Arena_adamw(ArenaObject *o, PyObject *args, PyObject *kw) {
    static char *names[] = {"lr", "beta1", "beta2", "eps", "decay", "clip", "ema_warms_up", NULL};
    wm_adamw a = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    int warms = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "d|dddddp:adamw", names, &a.lr, &a.beta1, &a.beta2, &a.eps, &a.decay, &a.clip, &warms)) return NULL;
    a.ema_warms_up = warms;
    wm_update u;
    Py_BEGIN_ALLOW_THREADS
    u = wm_params_adamw(o->p, &a);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(dOO)", u.norm, u.clipped ? Py_True : Py_False, u.skipped ? Py_True : Py_False);
}

static PyObject *Arena_shadow(ArenaObject *o, PyObject *v) {
    double ema = PyFloat_AsDouble(v);
    if (PyErr_Occurred()) return NULL;
    int i = wm_params_shadow(o->p, (float)ema);
    return i < 0 ? wm_raise() : PyLong_FromLong(i);
}

static PyObject *Arena_swap(ArenaObject *o, PyObject *v) {
    long i = PyLong_AsLong(v);
    if (PyErr_Occurred()) return NULL;
    if (i < 0 || i >= o->p->shadows) return PyErr_Format(PyExc_IndexError, "swap: there are %d moving averages, not %ld", o->p->shadows, i + 1);
    if (wm_params_swap(o->p, (int)i) < 0) return wm_raise();
    Py_RETURN_NONE;
}

static PyObject *Arena_part(ArenaObject *o, PyObject *args) {
    int part, tensor;
    if (!PyArg_ParseTuple(args, "ii:part", &part, &tensor)) return NULL;
    if (part < 0 || part >= WM_SHADOW + o->p->shadows || tensor < 0 || tensor >= o->p->n)
        return PyErr_Format(PyExc_IndexError, "part: no part %d of tensor %d", part, tensor);
    return wm_wrap(wm_state_of((PyObject *)o)->Tensor, wm_params_part(o->p, (wm_part)part, tensor));
}

static PyObject *Arena_clear(ArenaObject *o, PyObject *unused) {
    (void)unused;
    wm_params_clear(o->p);
    Py_RETURN_NONE;
}

static PyObject *Arena_norm(ArenaObject *o, PyObject *unused) { (void)unused; return PyFloat_FromDouble(wm_params_norm(o->p)); }
static PyObject *get_steps(ArenaObject *o, void *unused) { (void)unused; return PyLong_FromLongLong(o->p->steps); }
static PyObject *get_size(ArenaObject *o, void *unused) { (void)unused; return PyLong_FromLongLong(o->p->size); }

static int set_steps(ArenaObject *o, PyObject *v, void *unused) {
    (void)unused;
    long long n = v ? PyLong_AsLongLong(v) : -1;
    if (!PyErr_Occurred() && n < 0) PyErr_SetString(PyExc_ValueError, "steps: at least 0");
    if (PyErr_Occurred()) return -1;
    o->p->steps = n;
    return 0;
}

static PyObject *schedule(PyObject *module, PyObject *args) {
    (void)module;
    static const char *const words[] = {"constant", "linear", "cosine"};
    const char *word;
    long long step, warmup, total;
    double peak, floor;
    if (!PyArg_ParseTuple(args, "sLLLdd:schedule", &word, &step, &warmup, &total, &peak, &floor)) return NULL;
    for (int i = 0; i < 3; i++)
        if (!strcmp(word, words[i])) return PyFloat_FromDouble(wm_schedule_at((wm_schedule)i, step, warmup, total, peak, floor));
    return PyErr_Format(PyExc_ValueError, "schedule: must be one of constant, linear, cosine, not '%s'", word);
}

static PyMethodDef Arena_methods[] = {
    {"adamw", (PyCFunction)(void (*)(void))Arena_adamw, METH_VARARGS | METH_KEYWORDS,
     "adamw($self, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0, clip=0, ema_warms_up=False)\n--\n\n"
     "Clip, update, average and clear the gradients in one sweep; returns (norm, clipped, skipped)."},
    {"shadow", (PyCFunction)Arena_shadow, METH_O, "shadow($self, ema)\n--\n\nOne more moving average of that decay; returns its index."},
    {"swap", (PyCFunction)Arena_swap, METH_O, "swap($self, shadow)\n--\n\nExchange the values and a moving average."},
    {"part", (PyCFunction)Arena_part, METH_VARARGS, "part($self, part, tensor)\n--\n\nA view of one tensor's values (0), gradient (1), first (2) or second moment (3), average k (4 + k)."},
    {"clear", (PyCFunction)Arena_clear, METH_NOARGS, "clear($self)\n--\n\nGradients to 0."},
    {"norm", (PyCFunction)Arena_norm, METH_NOARGS, "norm($self)\n--\n\nThe norm of all gradients."},
    {0},
};
static PyGetSetDef Arena_getset[] = {
    {"steps", (getter)get_steps, (setter)set_steps, "Updates so far.", NULL},
    {"size", (getter)get_size, NULL, "Numbers in a block, padding included.", NULL},
    {0},
};
static PyType_Slot Arena_slots[] = {
    {Py_tp_new, Arena_new}, {Py_tp_dealloc, Arena_dealloc}, {Py_tp_methods, Arena_methods}, {Py_tp_getset, Arena_getset},
    {Py_tp_doc, "Arena(tensors, decays=None)\n--\n\nAll parameters of a model in one block; see worldmodel.optim."}, {0},
};
PyType_Spec wm_Arena_spec = {"worldmodel._core.Arena", sizeof(ArenaObject), 0, Py_TPFLAGS_DEFAULT, Arena_slots};

PyMethodDef wm_train_functions[] = {
    {"schedule", schedule, METH_VARARGS, "schedule(law, step, warmup, total, peak, floor)\n--\n\nA learning rate: warm-up, then constant, linear or cosine."},
    {0},
};
