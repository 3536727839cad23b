/* tape.c - Tape and Plan.

   class Tape:                                  class Plan:
       def __init__(self, grad=True): ...           def run(self): ...
       with tape: ...          # records            outputs   # tuple of Tensors, the same ones every run
       def backward(self, loss, gradient=None)      bytes     # of its one buffer
       def replay(self)                             def profile(self, rounds=20): ...
       def plan(self, *outputs) -> Plan
       def clear(self)                                                                    */
#include "binding.h"

/* (1) A recording tape holds itself, and the tape round it: wm_recording never points at what is gone.
   (2) busy: a walk runs without the GIL; meanwhile nobody may change the tape or the plan. */
typedef struct TapeObject {
    PyObject_HEAD
    wm_tape tape;
    struct TapeObject *outer;
    unsigned long thread;
    bool entered, busy;
} TapeObject;
typedef struct { PyObject_HEAD wm_plan plan; PyObject *outputs; bool busy; } PlanObject;

/* ---- Tape ------------------------------------------------------------------------------------- */

static PyObject *Tape_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    static char *names[] = {"grad", NULL};
    int grad = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|p:Tape", names, &grad)) return NULL;
    TapeObject *o = (TapeObject *)type->tp_alloc(type, 0);
    if (o) o->tape.no_grad = !grad;
    return (PyObject *)o;
}

static void Tape_dealloc(TapeObject *o) {
    PyTypeObject *type = Py_TYPE(o);
    wm_tape_clear(&o->tape);
    type->tp_free(o);
    Py_DECREF(type);
}

static TapeObject *object_of(wm_tape *t) { return t ? (TapeObject *)((char *)t - offsetof(TapeObject, tape)) : NULL; }

/* (2): false, with an exception, if another thread (or a walk round this call) is at work on it. */
static bool at_rest(const TapeObject *o, const char *what) {
    if (!o->busy && !(o->entered && o->thread != PyThread_get_thread_ident())) return true;
    PyErr_Format(PyExc_RuntimeError, "%s: the tape is at work elsewhere, wait until that has ended", what);
    return false;
}

static PyObject *Tape_enter(TapeObject *o, PyObject *unused) {
    (void)unused;
    if (o->entered) return PyErr_Format(PyExc_RuntimeError, "Tape: it is recording already");
    if (!at_rest(o, "Tape")) return NULL;
    o->entered = true, o->thread = PyThread_get_thread_ident();
    wm_tape_clear(&o->tape);
    o->outer = object_of(wm_recording);
    Py_XINCREF(o->outer);
    wm_recording = &o->tape;
    Py_INCREF(o);                                    /* (1) */
    return Py_NewRef((PyObject *)o);
}

static PyObject *Tape_exit(TapeObject *o, PyObject *unused) {
    (void)unused;
    if (wm_recording != &o->tape) return PyErr_Format(PyExc_RuntimeError, "Tape: with blocks must end in the order they began, in one thread");
    TapeObject *outer = o->outer;
    wm_recording = outer ? &outer->tape : NULL, o->entered = false, o->outer = NULL;
    Py_XDECREF(outer);
    Py_DECREF(o);
    Py_RETURN_NONE;
}

static PyObject *Tape_backward(TapeObject *o, PyObject *args, PyObject *kw) {
    static char *names[] = {"loss", "gradient", NULL};
    PyObject *loss, *gradient = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|O:backward", names, &loss, &gradient)) return NULL;
    module_state *st = wm_state_of((PyObject *)o);
    wm_tensor *t = wm_unwrap(st->Tensor, loss, "backward: loss"), *seed = NULL;
    if (!t || (gradient != Py_None && !(seed = wm_unwrap(st->Tensor, gradient, "backward: gradient")))) return NULL;
    if (seed && seed->dtype != WM_F32) return PyErr_Format(PyExc_TypeError, "backward: gradient must be float32, not %s", wm_dtype_name((wm_dtype)seed->dtype));
    if (!at_rest(o, "backward")) return NULL;
    int failed;
    o->busy = true;
    Py_BEGIN_ALLOW_THREADS
    failed = wm_backward(&o->tape, t, seed);
    Py_END_ALLOW_THREADS
    o->busy = false;
    if (failed) return wm_raise();
    Py_RETURN_NONE;
}

static PyObject *Tape_replay(TapeObject *o, PyObject *unused) {
    (void)unused;
    if (o->entered) return PyErr_Format(PyExc_RuntimeError, "replay: the tape is still recording");
    if (!at_rest(o, "replay")) return NULL;
    int failed;
    o->busy = true;
    Py_BEGIN_ALLOW_THREADS
    failed = wm_replay(&o->tape);
    Py_END_ALLOW_THREADS
    o->busy = false;
    if (failed) return wm_raise();
    Py_RETURN_NONE;
}

static PyObject *Tape_clear(TapeObject *o, PyObject *unused) {
    (void)unused;
    if (!at_rest(o, "clear")) return NULL;
    wm_tape_clear(&o->tape);
    Py_RETURN_NONE;
}

/* checkpoint(function, *tensors): what function records keeps only its inputs and outputs. */
static PyObject *Tape_checkpoint(TapeObject *o, PyObject *args) {
    if (wm_recording != &o->tape) return PyErr_Format(PyExc_RuntimeError, "checkpoint: the tape is not recording");
    if (PyTuple_GET_SIZE(args) < 1) return PyErr_Format(PyExc_TypeError, "checkpoint: argument function is missing");
    if (wm_checkpoint_begin(&o->tape) < 0) return wm_raise();
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
    PyObject *result = rest ? PyObject_Call(PyTuple_GET_ITEM(args, 0), rest, NULL) : NULL;
    Py_XDECREF(rest);
    if (wm_checkpoint_end(&o->tape) < 0) {
        Py_XDECREF(result);
        return wm_raise();
    }
    return result;
}

static Py_ssize_t Tape_length(TapeObject *o) { return (Py_ssize_t)o->tape.n; }

static PyObject *Tape_repr(TapeObject *o) {
    return PyUnicode_FromFormat("Tape(%zu ops%s)", o->tape.n, o->entered ? ", recording" : "");
}

static PyObject *get_nodes(TapeObject *o, void *unused) {
    (void)unused;
    if (!at_rest(o, "ops")) return NULL;
    PyObject *names = PyTuple_New((Py_ssize_t)o->tape.n);
    for (size_t i = 0; names && i < o->tape.n; i++) {
        PyObject *name = PyUnicode_InternFromString(o->tape.nodes[i].op->name);
        if (!name) Py_CLEAR(names); else PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    return names;
}

/* ---- Plan ------------------------------------------------------------------------------------- */

static PyObject *Tape_plan(TapeObject *o, PyObject *outputs) {
    module_state *st = wm_state_of((PyObject *)o);
    Py_ssize_t n = PyTuple_GET_SIZE(outputs);
    if (o->entered) return PyErr_Format(PyExc_RuntimeError, "plan: the tape is still recording");
    if (!at_rest(o, "plan")) return NULL;
    if (!n) return PyErr_Format(PyExc_TypeError, "plan: name at least one output");
    wm_tensor **wanted = PyMem_Calloc((size_t)n, sizeof *wanted);
    if (!wanted) return PyErr_NoMemory();
    PlanObject *p = (PlanObject *)st->Plan->tp_alloc(st->Plan, 0);
    for (Py_ssize_t i = 0; p && i < n; i++)
        if (!(wanted[i] = wm_unwrap(st->Tensor, PyTuple_GET_ITEM(outputs, i), "plan: output"))) Py_CLEAR(p);
    if (p && wm_plan_make(&p->plan, &o->tape, wanted, (size_t)n) < 0) {
        Py_CLEAR(p);
        wm_raise();
    }
    PyMem_Free(wanted);
    if (p && !(p->outputs = PyTuple_New(n))) Py_CLEAR(p);
    for (Py_ssize_t i = 0; p && i < n; i++) {
        PyObject *t = wm_wrap(st->Tensor, wm_keep(p->plan.outputs[i]));
        if (!t) Py_CLEAR(p); else PyTuple_SET_ITEM(p->outputs, i, t);
    }
    return (PyObject *)p;
}

static void Plan_dealloc(PlanObject *o) {
    PyTypeObject *type = Py_TYPE(o);
    Py_XDECREF(o->outputs);
    wm_plan_clear(&o->plan);
    type->tp_free(o);
    Py_DECREF(type);
}

static PyObject *Plan_run(PlanObject *o, PyObject *unused) {
    (void)unused;
    if (o->busy) return PyErr_Format(PyExc_RuntimeError, "run: the plan is at work elsewhere, wait until that has ended");
    int failed;
    o->busy = true;
    Py_BEGIN_ALLOW_THREADS
    failed = wm_plan_run(&o->plan);
    Py_END_ALLOW_THREADS
    o->busy = false;
    return failed ? wm_raise() : Py_NewRef(o->outputs);
}

/* One entry a node: (name, shape of its first result, seconds). */
static PyObject *profile_list(const wm_plan *plan, const double *seconds) {
    PyObject *list = PyList_New((Py_ssize_t)plan->n);
    for (size_t i = 0; list && i < plan->n; i++) {
        const wm_tensor *out = plan->nodes[i].out[0];
        PyObject *shape = PyTuple_New(out->ndim), *entry = NULL;
        for (int axis = 0; shape && axis < out->ndim; axis++)
            PyTuple_SET_ITEM(shape, axis, PyLong_FromLongLong(out->shape[axis]));
        if (shape && !PyErr_Occurred()) entry = Py_BuildValue("(sNd)", plan->nodes[i].op->name, shape, seconds[i]);
        if (!entry) Py_CLEAR(list); else PyList_SET_ITEM(list, (Py_ssize_t)i, entry);
    }
    return list;
}

static PyObject *Plan_profile(PlanObject *o, PyObject *args, PyObject *kw) {
    static char *names[] = {"rounds", NULL};
    int rounds = 20, failed;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|i:profile", names, &rounds)) return NULL;
    if (rounds < 1 || rounds > 100000) return PyErr_Format(PyExc_ValueError, "profile: rounds wanted 1 to 100000, got %d", rounds);
    if (o->busy) return PyErr_Format(PyExc_RuntimeError, "profile: the plan is at work elsewhere, wait until that has ended");
    double *seconds = PyMem_Calloc(o->plan.n + 1, sizeof *seconds);
    if (!seconds) return PyErr_NoMemory();
    o->busy = true;
    Py_BEGIN_ALLOW_THREADS
    failed = wm_plan_profile(&o->plan, seconds, rounds);
    Py_END_ALLOW_THREADS
    o->busy = false;
    PyObject *list = failed ? wm_raise() : profile_list(&o->plan, seconds);
    PyMem_Free(seconds);
    return list;
}

static PyObject *Plan_outputs(PlanObject *o, void *unused) { (void)unused; return Py_NewRef(o->outputs); }
static PyObject *Plan_captured(PlanObject *o, void *unused) { (void)unused; return PyBool_FromLong(o->plan.graph != NULL); }
static PyObject *Plan_bytes(PlanObject *o, void *unused) { (void)unused; return PyLong_FromSize_t(o->plan.buffer->bytes); }
static PyObject *Plan_unshared(PlanObject *o, void *unused) { (void)unused; return PyLong_FromSize_t(o->plan.bytes_unshared); }
static Py_ssize_t Plan_length(PlanObject *o) { return (Py_ssize_t)o->plan.n; }
static PyObject *Plan_repr(PlanObject *o) {
    return PyUnicode_FromFormat("Plan(%zu ops, %zu bytes)", o->plan.n, o->plan.buffer->bytes);
}

/* ---- recording off and on again: no_grad ------------------------------------------------------ */

/* The token is the tape, which still holds itself (1), or None. */
static PyObject *pause_recording(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    TapeObject *o = object_of(wm_recording);
    wm_recording = NULL;
    return Py_NewRef(o ? (PyObject *)o : Py_None);
}

static PyObject *resume_recording(PyObject *module, PyObject *token) {
    module_state *st = PyModule_GetState(module);
    TapeObject *o = PyObject_TypeCheck(token, st->Tape) ? (TapeObject *)token : NULL;
    if ((!o && token != Py_None) || (o && (!o->entered || o->thread != PyThread_get_thread_ident())))
        return PyErr_Format(PyExc_RuntimeError, "no_grad: %R is no tape that records in this thread", token);
    wm_recording = o ? &o->tape : NULL;
    Py_RETURN_NONE;
}

static PyObject *is_recording(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyBool_FromLong(wm_recording != NULL);
}

/* ---- the types -------------------------------------------------------------------------------- */

static PyMethodDef Tape_methods[] = {
    {"__enter__", (PyCFunction)Tape_enter, METH_NOARGS, "Forget what was recorded and record from now on."},
    {"__exit__", (PyCFunction)Tape_exit, METH_VARARGS, NULL},
    {"backward", (PyCFunction)(void (*)(void))Tape_backward, METH_VARARGS | METH_KEYWORDS,
     "backward($self, loss, gradient=None)\n--\n\nAdd d loss / d leaf to the gradient of every leaf that needs one.\n\n"
     "loss is one number, or gradient (same shape) weighs its numbers.  Raises RuntimeError while a tape records."},
    {"replay", (PyCFunction)Tape_replay, METH_NOARGS, "replay($self)\n--\n\nRun every recorded op again, in place: change the inputs' numbers first."},
    {"checkpoint", (PyCFunction)Tape_checkpoint, METH_VARARGS,
     "checkpoint($self, function, *tensors)\n--\n\nfunction(*tensors), keeping only its inputs and outputs; backward computes the rest again."},
    {"plan", (PyCFunction)Tape_plan, METH_VARARGS,
     "plan($self, *outputs)\n--\n\nFreeze what the outputs need into a Plan: one buffer, no allocation, no Python inside."},
    {"clear", (PyCFunction)Tape_clear, METH_NOARGS, "clear($self)\n--\n\nForget everything recorded."},
    {0},
};
static PyGetSetDef Tape_getset[] = {{"ops", (getter)get_nodes, NULL, "The names of the recorded ops, in order.", NULL}, {0}};
static PyType_Slot Tape_slots[] = {
    {Py_tp_new, Tape_new}, {Py_tp_dealloc, Tape_dealloc}, {Py_tp_methods, Tape_methods}, {Py_tp_getset, Tape_getset},
    {Py_sq_length, Tape_length}, {Py_tp_repr, Tape_repr},
    {Py_tp_doc, "Tape(grad=True)\n--\n\nThe list of what was computed inside `with tape:`.  grad=False records for replay and plans only."},
    {0},
};
PyType_Spec wm_Tape_spec = {"worldmodel.Tape", sizeof(TapeObject), 0, Py_TPFLAGS_DEFAULT, Tape_slots};

static PyMethodDef Plan_methods[] = {
    {"run", (PyCFunction)Plan_run, METH_NOARGS, "run($self)\n--\n\nCompute the outputs from the inputs' present numbers; returns outputs."},
    {"profile", (PyCFunction)(void (*)(void))Plan_profile, METH_VARARGS | METH_KEYWORDS,
     "profile($self, rounds=20)\n--\n\nRun so many times; a list of (op, shape of its result, median seconds), one for each op."},
    {0},
};
static PyGetSetDef Plan_getset[] = {
    {"outputs", (getter)Plan_outputs, NULL, "The output tensors; every run overwrites them.", NULL},
    {"captured", (getter)Plan_captured, NULL, "Whether a run is one launch of a CUDA graph: from the second run on, while the leaves stay where they are.", NULL},
    {"bytes", (getter)Plan_bytes, NULL, "The size of the buffer in which all intermediates live.", NULL},
    {"bytes_unshared", (getter)Plan_unshared, NULL, "What the intermediates would take if none shared its place.", NULL},
    {0},
};
static PyType_Slot Plan_slots[] = {
    {Py_tp_dealloc, Plan_dealloc}, {Py_tp_methods, Plan_methods}, {Py_tp_getset, Plan_getset}, {Py_sq_length, Plan_length},
    {Py_tp_repr, Plan_repr}, {Py_tp_doc, "A frozen tape; made by Tape.plan."}, {0},
};
PyType_Spec wm_Plan_spec = {"worldmodel.Plan", sizeof(PlanObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, Plan_slots};

PyMethodDef wm_tape_functions[] = {
    {"_pause_recording", pause_recording, METH_NOARGS, NULL},
    {"_resume_recording", resume_recording, METH_O, NULL},
    {"is_recording", is_recording, METH_NOARGS, "is_recording()\n--\n\nWhether a tape records in this thread."},
    {0},
};
