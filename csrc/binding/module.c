/* module.c - worldmodel._core: types, ops, and the knobs of the machine. */
#define WM_IMPORTS_NUMPY
#include "binding.h"
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>

PyObject *wm_raise(void) {
    static PyObject **const kinds[] = {
        [WM_VALUE] = &PyExc_ValueError, [WM_TYPE] = &PyExc_TypeError, [WM_INDEX] = &PyExc_IndexError,
        [WM_MEMORY] = &PyExc_MemoryError, [WM_RUNTIME] = &PyExc_RuntimeError, [WM_INTERRUPTED] = &PyExc_KeyboardInterrupt};
    if (!PyErr_Occurred()) PyErr_SetString(*kinds[wm_error_kind], wm_error);
    return NULL;
}

static PyModuleDef module;
module_state *wm_state_of(PyObject *self) { return PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &module)); }

/* ---- kernels ---------------------------------------------------------------------------------- */

static PyObject *kernels(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    return PyUnicode_FromString(wm_k->name);
}

static PyObject *kernel_tables(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && wm_kernels_name(i); i++) {
        PyObject *name = PyUnicode_FromString(wm_kernels_name(i));
        if (!name || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* A device's table is named for the device; it may lack kernels. */
static const wm_kernels *table_named(const char *name, const char *who) {
    const wm_kernels *k = wm_kernels_named(name);
    char names[128] = "";
    for (int i = 0; !k && wm_kernels_name(i); i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), i ? ", %s" : "%s", wm_kernels_name(i));
    if (!k) PyErr_Format(PyExc_ValueError, "%s: no kernels named '%s' run on this processor; these do: %s", who, name, names);
    return k;
}

static PyObject *use_kernels(PyObject *m, PyObject *name) {
    (void)m;
    const char *s = PyUnicode_AsUTF8(name);
    const wm_kernels *k = s ? table_named(s, "use_kernels") : NULL;
    if (!k) return NULL;
    wm_k = k;
    Py_RETURN_NONE;
}

static const struct { const char *name; size_t offset; const char *arguments; } entries[] = {
#define WM_KERNEL(name, ret, args) {#name, offsetof(wm_kernels, name), #ret " " #args},
#include "../kernels/kernels.def"
#undef WM_KERNEL
};

static PyObject *kernel_list(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    PyObject *d = PyDict_New();
    for (size_t i = 0; d && i < sizeof entries / sizeof *entries; i++) {
        PyObject *v = PyUnicode_FromString(entries[i].arguments);
        if (!v || PyDict_SetItemString(d, entries[i].name, v) < 0) Py_CLEAR(d);
        Py_XDECREF(v);
    }
    return d;
}

static PyObject *kernel_address(PyObject *m, PyObject *args) {
    (void)m;
    const char *table, *name;
    if (!PyArg_ParseTuple(args, "ss:kernel_address", &table, &name)) return NULL;
    const wm_kernels *k = table_named(table, "kernel_address");
    for (size_t i = 0; k && i < sizeof entries / sizeof *entries; i++)
        if (!strcmp(entries[i].name, name)) return PyLong_FromVoidPtr(*(void *const *)((const char *)k + entries[i].offset));
    return k ? PyErr_Format(PyExc_ValueError, "kernel_address: no kernel named '%s'", name) : NULL;
}

/* ---- devices ------------------------------------------------------------------------------------ */

static PyObject *set_device(PyObject *m, PyObject *name) {
    (void)m;
    int device = wm_device_from(name, "set_device");
    if (device < 0) return NULL;
    wm_device_now = device;
    Py_RETURN_NONE;
}

static PyObject *device(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    return PyUnicode_FromString(wm_device_name(wm_device_now));
}

/* Can it be used?  Its description; else why not. */
static PyObject *describe_device(PyObject *m, PyObject *name) {
    (void)m;
    const char *word = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    int i = word ? wm_device_named(word) : -1;
    if (i <= 0) return PyErr_Format(PyExc_ValueError, "describe_device: no device library named %R", name);
    if (wm_device_open(i) < 0) return Py_BuildValue("(Os)", Py_False, wm_error);
    return Py_BuildValue("(Os)", Py_True, wm_devices[i]->describe());
}

static PyObject *device_kernels(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    if (wm_device_open(WM_CUDA) < 0) return wm_raise();
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < sizeof entries / sizeof *entries; i++) {
        PyObject *name = wm_devices[WM_CUDA]->has(entries[i].name) ? PyUnicode_FromString(entries[i].name) : NULL;
        if (name && PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
        if (PyErr_Occurred()) Py_CLEAR(list);
    }
    return list;
}

static PyObject *synchronize(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    for (int i = 1; i < WM_DEVICES; i++)
        if (wm_devices[i] && (wm_device_wait(i) < 0 || wm_device_failed(i, "synchronize") < 0)) return wm_raise();
    Py_RETURN_NONE;
}

static PyObject *set_matmul(PyObject *m, PyObject *how) {
    (void)m;
    const char *word = PyUnicode_Check(how) ? PyUnicode_AsUTF8(how) : NULL;
    if (!word) return PyErr_Format(PyExc_TypeError, "set_matmul: wanted a word, not %R", how);
    if (wm_device_open(WM_CUDA) < 0) return wm_raise();
    wm_device_enter(WM_CUDA);
    int failed = wm_devices[WM_CUDA]->matmul(word) < 0 ? wm_device_failed(WM_CUDA, "set_matmul") : 0;
    wm_device_leave(WM_CUDA);
    if (failed) return wm_raise();
    Py_RETURN_NONE;
}

/* ---- threads, memory, guards ------------------------------------------------------------------ */

static PyObject *set_threads(PyObject *m, PyObject *v) {
    (void)m;
    long n = PyLong_AsLong(v);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (n < 1 || n > 1024) return PyErr_Format(PyExc_ValueError, "set_threads: between 1 and 1024 threads, not %ld", n);
    wm_threads = (int)n;
    Py_RETURN_NONE;
}

static PyObject *threads(PyObject *m, PyObject *unused) { (void)m, (void)unused; return PyLong_FromLong(wm_threads); }

static PyObject *pool(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    wm_pool_counts c = wm_pool_count();
    size_t own = c.bytes_in_use;
    for (int i = 1; i < WM_DEVICES; i++)
        if (wm_devices[i]) wm_devices[i]->count(&c);
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K}", "overruns", c.overruns, "misses", c.misses, "bytes_in_use", c.bytes_in_use,
                         "bytes_on_devices", c.bytes_in_use - own, "bytes_idle", c.bytes_idle, "bytes_peak", c.bytes_peak);
}

static PyObject *pool_trim(PyObject *m, PyObject *unused) {
    (void)m, (void)unused;
    wm_pool_trim();
    for (int i = 1; i < WM_DEVICES; i++)
        if (wm_devices[i]) wm_device_enter(i), wm_devices[i]->trim(), wm_device_leave(i);
    Py_RETURN_NONE;
}

static PyObject *pool_limit(PyObject *m, PyObject *v) {
    (void)m;
    size_t n = PyLong_AsSize_t(v);
    if (PyErr_Occurred()) return NULL;
    wm_pool_limit(n);
    Py_RETURN_NONE;
}

static PyObject *pool_guard(PyObject *m, PyObject *v) {
    (void)m;
    int yes = PyObject_IsTrue(v);
    if (yes < 0) return NULL;
    wm_pool_guard(yes);
    for (int i = 1; i < WM_DEVICES; i++)
        if (wm_devices[i]) wm_device_enter(i), wm_devices[i]->guard(yes), wm_device_leave(i);
    Py_RETURN_NONE;
}

static PyObject *guard_nan(PyObject *m, PyObject *v) {
    (void)m;
    int yes = PyObject_IsTrue(v);
    if (yes < 0) return NULL;
    wm_guard_nan = yes;
    Py_RETURN_NONE;
}

/* Between the nodes of a long walk, now and then, without the GIL: has somebody pressed Ctrl-C? */
static int poll_signals(void) {
    PyGILState_STATE g = PyGILState_Ensure();
    int stop = PyErr_CheckSignals();
    PyGILState_Release(g);
    return stop;
}

/* libgomp's team does not survive a fork: the child computes alone. */
static void after_fork(void) { wm_threads = 1; }

/* ---- the module ------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"kernels", kernels, METH_NOARGS, "kernels()\n--\n\nThe name of the kernel table in use."},
    {"kernel_tables", kernel_tables, METH_NOARGS, "kernel_tables()\n--\n\nThe kernel tables that this processor runs, best first."},
    {"use_kernels", use_kernels, METH_O, "use_kernels(name)\n--\n\nUse the named kernel table from now on."},
    {"kernel_list", kernel_list, METH_NOARGS, "kernel_list()\n--\n\nEvery kernel and its C arguments, from kernels.def."},
    {"kernel_address", kernel_address, METH_VARARGS, "kernel_address(table, name)\n--\n\nWhere a kernel's code lies, for tests through ctypes."},
    {"set_device", set_device, METH_O, "set_device(name)\n--\n\nWhere new tensors are made from now on: 'cpu' or 'cuda'.  Raises RuntimeError, naming CUDA's status, if there is none."},
    {"device", device, METH_NOARGS, "device()\n--\n\nWhere new tensors are made: 'cpu' or 'cuda'."},
    {"describe_device", describe_device, METH_O, "describe_device(name)\n--\n\n(True, what it is) or (False, why it cannot be used)."},
    {"device_kernels", device_kernels, METH_NOARGS, "device_kernels()\n--\n\nThe kernels that exist on CUDA; ops that need another raise RuntimeError."},
    {"synchronize", synchronize, METH_NOARGS, "synchronize()\n--\n\nWait until devices have done all they were asked."},
    {"set_matmul", set_matmul, METH_O, "set_matmul(how)\n--\n\nHow CUDA multiplies matrices: 'exact' (float32), 'split' (tensor cores, floats in three bf16 terms), 'bf16' (tensor cores, rounded inputs; attention too), 'cublas' (float32) or 'cublas_bf16' (rounded inputs)."},
    {"set_threads", set_threads, METH_O, "set_threads(n)\n--\n\nHow many threads a kernel may use.  Results do not depend on it."},
    {"threads", threads, METH_NOARGS, "threads()\n--\n\nHow many threads a kernel may use."},
    {"pool", pool, METH_NOARGS, "pool()\n--\n\nThe memory pool's counts: misses, bytes_in_use (bytes_on_devices of them), bytes_idle, bytes_peak, overruns."},
    {"pool_trim", pool_trim, METH_NOARGS, "pool_trim()\n--\n\nHand idle blocks back to the system; the peak starts anew."},
    {"pool_limit", pool_limit, METH_O, "pool_limit(bytes)\n--\n\nRaise MemoryError rather than hold more on the processor; 0: no limit."},
    {"pool_guard", pool_guard, METH_O, "pool_guard(on)\n--\n\nTests: fill new blocks with NaN and count writes past their ends."},
    {"guard_nan", guard_nan, METH_O, "guard_nan(on)\n--\n\nLook for NaN and infinity after every op, and raise RuntimeError naming the op."},
    {0},
};

static int choose_kernels(void) {
    const char *wanted = getenv("WORLDMODEL_KERNELS");
    wm_k = wm_kernels_best();
    if (wanted && *wanted && !(wm_k = table_named(wanted, "WORLDMODEL_KERNELS"))) {
        wm_k = wm_kernels_best();
        return -1;
    }
    return 0;
}

static int add_type(PyObject *m, PyTypeObject **slot, PyType_Spec *spec) {
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(m, spec, NULL);
    return *slot ? PyModule_AddType(m, *slot) : -1;
}

static int execute(PyObject *m) {
    module_state *st = PyModule_GetState(m);
    static bool hooked;
    if (PyArray_ImportNumPyAPI() < 0 || choose_kernels() < 0) return -1;
    if (add_type(m, &st->Tensor, &wm_Tensor_spec) < 0 || add_type(m, &st->Tape, &wm_Tape_spec) < 0 ||
        add_type(m, &st->Plan, &wm_Plan_spec) < 0 || add_type(m, &st->Arena, &wm_Arena_spec) < 0 || wm_add_ops(m, st) < 0) return -1;
    if (PyModule_AddFunctions(m, wm_dlpack_functions) < 0 || PyModule_AddFunctions(m, wm_tape_functions) < 0 ||
        PyModule_AddFunctions(m, wm_train_functions) < 0) return -1;
    if (!hooked) wm_threads = omp_get_max_threads(), wm_poll = poll_signals, pthread_atfork(NULL, NULL, after_fork);
    hooked = true;
    return 0;
}

static int traverse(PyObject *m, visitproc visit, void *arg) {
    module_state *st = PyModule_GetState(m);
    Py_VISIT(st->Tensor);
    Py_VISIT(st->Tape);
    Py_VISIT(st->Plan);
    Py_VISIT(st->Arena);
    return 0;
}

static int clear(PyObject *m) {
    module_state *st = PyModule_GetState(m);
    Py_CLEAR(st->Tensor);
    Py_CLEAR(st->Tape);
    Py_CLEAR(st->Plan);
    Py_CLEAR(st->Arena);
    return 0;
}

static void release(void *m) { clear(m); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},   /* the kernel table is one per process */
#endif
    {0, NULL},
};
static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "worldmodel._core", .m_doc = "The C core of worldmodel.", .m_size = sizeof(module_state),
    .m_methods = functions, .m_slots = slots, .m_traverse = traverse, .m_clear = clear, .m_free = release,
};
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module); }
