/* tensor.c - Tensor: numbers shared with NumPy and the buffer protocol without copying (dlpack.c: with anybody else).

   class Tensor:
       def __new__(cls, data, dtype=None, needs_grad=False, copy=False): ...
       shape, ndim, size, dtype, device, needs_grad, grad, stamp
       def numpy(self): ...      def item(self): ...      def copy_(self, data): ...
       def zero_grad(self): ...  def retain_grad(self): ...
       def __dlpack__(self, ...): ...                                                     */
#include "binding.h"

static int numpy_type(int dtype) {
    switch (dtype) {
    case WM_F32: return NPY_FLOAT32;
    case WM_U8: return NPY_UINT8;
    case WM_I32: return NPY_INT32;
    default: return -1;
    }
}

PyObject *wm_wrap(PyTypeObject *type, wm_tensor *t) {
    if (!t) return wm_raise();
    TensorObject *o = (TensorObject *)type->tp_alloc(type, 0);
    if (!o) { wm_drop(t); return NULL; }
    o->t = t;
    return (PyObject *)o;
}

wm_tensor *wm_unwrap(PyTypeObject *Tensor, PyObject *o, const char *what) {
    if (PyObject_TypeCheck(o, Tensor)) return ((TensorObject *)o)->t;
    PyErr_Format(PyExc_TypeError, "%s must be a Tensor, not %s", what, Py_TYPE(o)->tp_name);
    return NULL;
}

/* ---- in: from NumPy and whatever NumPy understands -------------------------------------------- */

static void release_array(void *array) {
    PyGILState_STATE g = PyGILState_Ensure();
    Py_DECREF((PyObject *)array);
    PyGILState_Release(g);
}

/* What a NumPy type becomes here: booleans are bytes, every float float32, every integer int32. */
static int dtype_for(PyArrayObject *a, PyObject *wanted) {
    if (wanted && wanted != Py_None) {
        const char *name = PyUnicode_Check(wanted) ? PyUnicode_AsUTF8(wanted) : NULL;
        for (int d = WM_F32; name && d <= WM_I32; d++)
            if (d != WM_BF16 && !strcmp(name, wm_dtype_name((wm_dtype)d))) return d;
        PyErr_Format(PyExc_ValueError, "Tensor: dtype must be 'float32', 'uint8' or 'int32', not %R", wanted);
        return -1;
    }
    int type = PyArray_TYPE(a);
    if (type == NPY_UINT8 || type == NPY_BOOL) return WM_U8;
    if (PyTypeNum_ISINTEGER(type)) return WM_I32;
    if (PyTypeNum_ISFLOAT(type)) return WM_F32;
    PyErr_Format(PyExc_TypeError, "Tensor: cannot hold numbers of type %S", (PyObject *)PyArray_DESCR(a));
    return -1;
}

/* A new array of the wanted type; integers must fit, or OverflowError. */
static PyArrayObject *converted(PyArrayObject *a, int dtype) {
    int from = PyArray_TYPE(a), to = numpy_type(dtype);
    if (PyTypeNum_ISINTEGER(from) && dtype != WM_F32 && from != to && PyArray_SIZE(a)) {
        PyObject *least = PyObject_CallMethod((PyObject *)a, "min", NULL), *most = least ? PyObject_CallMethod((PyObject *)a, "max", NULL) : NULL;
        long long low = 0, high = 0;
        int overflow = 0, o = 0;
        if (most) {
            PyObject *l = PyNumber_Index(least), *m = l ? PyNumber_Index(most) : NULL;
            if (m) low = PyLong_AsLongLongAndOverflow(l, &overflow), high = PyLong_AsLongLongAndOverflow(m, &o), overflow |= o;
            Py_XDECREF(l), Py_XDECREF(m);
        }
        Py_XDECREF(least), Py_XDECREF(most);
        if (PyErr_Occurred()) return NULL;
        long long bottom = dtype == WM_U8 ? 0 : INT32_MIN, top = dtype == WM_U8 ? 255 : INT32_MAX;
        if (overflow || low < bottom || high > top) {
            PyErr_Format(PyExc_OverflowError, "Tensor: integers must lie in %lld..%lld for %s, data goes from %lld to %lld",
                         bottom, top, wm_dtype_name((wm_dtype)dtype), low, high);
            return NULL;
        }
    }
    return (PyArrayObject *)PyArray_FromAny((PyObject *)a, PyArray_DescrFromType(to), 0, 0,
                                            NPY_ARRAY_CARRAY | NPY_ARRAY_ENSURECOPY | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSUREARRAY, NULL);
}

/* Can a be used where it lies?  0 yes, 1 it must be copied, -1 it may not be copied. */
static int must_copy(PyArrayObject *a, int dtype, int is_array, int copy) {
    if (copy || !is_array || PyArray_TYPE(a) != numpy_type(dtype)) return 1;
    const char *why = !PyArray_IS_C_CONTIGUOUS(a) ? "is not contiguous" : !PyArray_ISWRITEABLE(a) ? "is read-only" :
                      !PyArray_ISALIGNED(a) ? "is not aligned" : PyArray_ISBYTESWAPPED(a) ? "has foreign byte order" : NULL;
    if (!why) return 0;
    PyErr_Format(PyExc_ValueError, "Tensor: the array %s, so it cannot be shared; pass copy=True to copy it", why);
    return -1;
}

static wm_tensor *own_copy(PyArrayObject *a, int device, int dtype, const int64_t *shape) {
    wm_tensor *t = wm_tensor_new(device, (wm_dtype)dtype, PyArray_NDIM(a), shape);
    if (t && wm_copy_between(device, t->raw, WM_CPU, PyArray_DATA(a), (size_t)PyArray_NBYTES(a)) < 0) wm_drop(t), t = NULL;
    if (!t) wm_raise();
    return t;
}

static wm_tensor *from_array(PyObject *data, PyObject *dtype_name, int copy, int device) {
    int is_array = PyArray_Check(data);
    PyArrayObject *a = (PyArrayObject *)PyArray_FROM_O(data);
    if (!a) return NULL;
    int dtype = dtype_for(a, dtype_name), how = dtype < 0 ? -1 : must_copy(a, dtype, is_array, copy || device);
    if (how >= 0 && PyArray_NDIM(a) > WM_DIMS) {
        PyErr_Format(PyExc_ValueError, "Tensor: data has %d axes, at most %d are possible", PyArray_NDIM(a), WM_DIMS);
        how = -1;
    }
    if (how == 1) {
        PyArrayObject *c = converted(a, dtype);
        Py_SETREF(a, c);
    }
    if (how < 0 || !a) { Py_XDECREF(a); return NULL; }
    int64_t shape[WM_DIMS];
    for (int i = 0; i < PyArray_NDIM(a); i++) shape[i] = PyArray_DIM(a, i);
    wm_tensor *t;
    if (how == 1) {
        t = own_copy(a, device, dtype, shape);
        Py_DECREF(a);
    } else if (!(t = wm_tensor_borrow(WM_CPU, (wm_dtype)dtype, PyArray_DATA(a), PyArray_NDIM(a), shape, a, release_array))) {
        Py_DECREF(a);
        wm_raise();
    }
    return t;
}

static PyObject *Tensor_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    static char *names[] = {"data", "dtype", "needs_grad", "copy", "device", NULL};
    PyObject *data, *dtype = NULL, *where = NULL;
    int needs_grad = 0, copy = 0, device = wm_device_now;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|O$ppO:Tensor", names, &data, &dtype, &needs_grad, &copy, &where)) return NULL;
    if (where && where != Py_None && (device = wm_device_from(where, "Tensor")) < 0) return NULL;
    wm_tensor *t = from_array(data, dtype, copy, device);
    if (!t) return NULL;
    if (needs_grad && t->dtype != WM_F32) {
        PyErr_Format(PyExc_TypeError, "Tensor: only float32 can need a gradient, not %s", wm_dtype_name((wm_dtype)t->dtype));
        wm_drop(t);
        return NULL;
    }
    t->needs_grad = needs_grad;
    return wm_wrap(type, t);
}

static void Tensor_dealloc(TensorObject *o) {
    PyTypeObject *type = Py_TYPE(o);
    wm_drop(o->t);
    type->tp_free(o);
    Py_DECREF(type);
}

/* ---- out: views that keep the memory alive ---------------------------------------------------- */

void wm_export_ends(wm_memory *memory) {
    __atomic_add_fetch(&memory->version, 1, __ATOMIC_RELEASE);
    __atomic_sub_fetch(&memory->exports, 1, __ATOMIC_ACQ_REL);
    wm_memory_drop(memory);
}

static void export_ends(PyObject *capsule) {
    wm_memory *m = PyCapsule_GetPointer(capsule, "worldmodel.export");
    wm_export_ends(m);
}

void wm_export_begins(wm_memory *m) {
    wm_memory_keep(m);
    __atomic_add_fetch(&m->exports, 1, __ATOMIC_ACQ_REL);
}

static PyObject *array_over(wm_memory *m, void *data, int type, const wm_tensor *t) {
    npy_intp shape[WM_DIMS];
    for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
    PyObject *a = PyArray_SimpleNewFromData(t->ndim, shape, type, data);
    PyObject *capsule = a ? PyCapsule_New(m, "worldmodel.export", export_ends) : NULL;
    if (!capsule) { Py_XDECREF(a); return NULL; }
    wm_export_begins(m);
    if (PyArray_SetBaseObject((PyArrayObject *)a, capsule) < 0) Py_CLEAR(a);
    return a;
}

int wm_awake(const wm_tensor *t) {
    if (t->raw) return 0;
    PyErr_SetString(PyExc_RuntimeError, "Tensor: it belongs to a checkpoint and holds no numbers now");
    return -1;
}

/* Numbers that lie on a device, copied; read-only, so that nobody writes to a copy and wonders. */
static PyObject *copied(const wm_tensor *t, const void *numbers, int type) {
    npy_intp shape[WM_DIMS];
    for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
    PyObject *a = PyArray_SimpleNew(t->ndim, shape, type);
    if (a && wm_copy_between(WM_CPU, PyArray_DATA((PyArrayObject *)a), t->device, numbers, (size_t)PyArray_NBYTES((PyArrayObject *)a)) < 0) {
        Py_DECREF(a);
        return wm_raise();
    }
    if (a) PyArray_CLEARFLAGS((PyArrayObject *)a, NPY_ARRAY_WRITEABLE);
    return a;
}

static PyObject *Tensor_numpy(TensorObject *o, PyObject *unused) {
    (void)unused;
    int type = numpy_type(o->t->dtype);
    if (type < 0)
        return PyErr_Format(PyExc_TypeError, "Tensor: NumPy has no %s; cast it to float32 first (ops.cast)",
                            wm_dtype_name((wm_dtype)o->t->dtype));
    if (o->t->device) return wm_awake(o->t) < 0 ? NULL : copied(o->t, o->t->raw, type);
    return wm_awake(o->t) < 0 ? NULL : array_over(o->t->memory, o->t->raw, type, o->t);
}

static PyObject *Tensor_array(TensorObject *o, PyObject *args, PyObject *kw) {
    static char *names[] = {"dtype", "copy", NULL};
    PyObject *dtype = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|OO:__array__", names, &dtype, &copy)) return NULL;
    PyObject *a = Tensor_numpy(o, NULL);
    if (!a || (dtype == Py_None && copy != Py_True)) return a;
    PyObject *r = dtype == Py_None ? PyObject_CallMethod(a, "copy", NULL) : PyObject_CallMethod(a, "astype", "O", dtype);
    Py_DECREF(a);
    return r;
}

static PyObject *Tensor_item(TensorObject *o, PyObject *unused) {
    (void)unused;
    const wm_tensor *t = o->t;
    if (t->size != 1) return PyErr_Format(PyExc_ValueError, "item: the tensor has %lld numbers, not one", (long long)t->size);
    if (wm_awake(t) < 0) return NULL;
    union { float f; wm_bf16 bf16; uint8_t u8; int32_t i32; } x = {0};
    if (wm_copy_between(WM_CPU, &x, t->device, t->raw, wm_dtype_size((wm_dtype)t->dtype)) < 0) return wm_raise();
    switch (t->dtype) {
    case WM_U8: return PyLong_FromLong(x.u8);
    case WM_I32: return PyLong_FromLong(x.i32);
    case WM_F32: return PyFloat_FromDouble(x.f);
    default: {
        union { uint32_t bits; float f; } widened = {.bits = (uint32_t)x.bf16 << 16};
        return PyFloat_FromDouble(widened.f);
    }
    }
}

static PyObject *Tensor_copy_(TensorObject *o, PyObject *data) {
    wm_tensor *t = o->t;
    PyObject *a = Tensor_numpy(o, NULL), *from = a ? PyArray_FROM_O(data) : NULL;
    if (a && t->device) PyArray_ENABLEFLAGS((PyArrayObject *)a, NPY_ARRAY_WRITEABLE);
    int failed = !from || PyArray_CopyInto((PyArrayObject *)a, (PyArrayObject *)from) < 0;
    if (!failed && t->device && wm_copy_between(t->device, t->raw, WM_CPU, PyArray_DATA((PyArrayObject *)a),
                                                (size_t)PyArray_NBYTES((PyArrayObject *)a)) < 0) {
        wm_raise();
        failed = 1;
    }
    Py_XDECREF(from);
    Py_XDECREF(a);
    if (failed) return NULL;
    wm_written(t);
    return Py_NewRef((PyObject *)o);
}

/* ---- devices ----------------------------------------------------------------------------------- */

int wm_device_from(PyObject *name, const char *who) {
    const char *word = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    int device = word ? wm_device_named(word) : -1;
    if (device < 0 && !PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%s: device must be 'cpu' or 'cuda', not %R", who, name);
    if (device < 0 || wm_device_open(device) == 0) return device;
    wm_raise();
    return -1;
}

/* A copy over there; a tensor that is there already is itself. */
static PyObject *Tensor_to(TensorObject *o, PyObject *name) {
    wm_tensor *t = o->t;
    int device = wm_device_from(name, "to");
    if (device < 0 || wm_awake(t) < 0) return NULL;
    if (device == t->device) return Py_NewRef((PyObject *)o);
    wm_tensor *there = wm_tensor_new(device, (wm_dtype)t->dtype, t->ndim, t->shape);
    if (there && wm_copy_between(device, there->raw, t->device, t->raw, (size_t)t->size * wm_dtype_size((wm_dtype)t->dtype)) < 0)
        wm_drop(there), there = NULL;
    if (there) there->needs_grad = t->needs_grad;
    return wm_wrap(wm_state_of((PyObject *)o)->Tensor, there);
}

static PyObject *Tensor_to_(TensorObject *o, PyObject *name) {
    int device = wm_device_from(name, "to_");
    if (device < 0 || wm_awake(o->t) < 0) return NULL;
    if (wm_tensor_send(o->t, device) < 0) return wm_raise();
    return Py_NewRef((PyObject *)o);
}

/* ---- gradients -------------------------------------------------------------------------------- */

static PyObject *get_grad(TensorObject *o, void *unused) {
    (void)unused;
    wm_tensor *t = o->t;
    if (!wm_grad_here(t)) Py_RETURN_NONE;
    if (t->device) return copied(t, t->grad, NPY_FLOAT32);
    wm_memory *m = t->base ? t->base->grad_memory : t->grad_memory;
    return array_over(m, t->grad, NPY_FLOAT32, t);
}

/* The memory's address, mixed with the number of writes. */
static PyObject *get_stamp(TensorObject *o, void *unused) {
    (void)unused;
    const wm_memory *m = o->t->memory;
    if (__atomic_load_n(&m->exports, __ATOMIC_ACQUIRE)) Py_RETURN_NONE;
    uint64_t written = __atomic_load_n(&m->version, __ATOMIC_ACQUIRE);
    return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)m->data ^ written * UINT64_C(0x9e3779b97f4a7c15));
}

static PyObject *get_needs_grad(TensorObject *o, void *unused) {
    (void)unused;
    return PyBool_FromLong(o->t->needs_grad);
}

static int set_needs_grad(TensorObject *o, PyObject *v, void *unused) {
    (void)unused;
    int yes = v ? PyObject_IsTrue(v) : 0;
    if (yes < 0) return -1;
    if (yes && o->t->dtype != WM_F32 && o->t->dtype != WM_BF16) {
        PyErr_Format(PyExc_TypeError, "needs_grad: %s numbers have no gradient", wm_dtype_name((wm_dtype)o->t->dtype));
        return -1;
    }
    o->t->needs_grad = yes;
    return 0;
}

static PyObject *Tensor_zero_grad(TensorObject *o, PyObject *unused) {
    (void)unused;
    wm_grad_clear(o->t);
    Py_RETURN_NONE;
}

static PyObject *Tensor_retain_grad(TensorObject *o, PyObject *unused) {
    (void)unused;
    o->t->keeps_grad = true;
    Py_RETURN_NONE;
}

/* ---- facts ------------------------------------------------------------------------------------ */

static PyObject *get_shape(TensorObject *o, void *unused) {
    (void)unused;
    PyObject *shape = PyTuple_New(o->t->ndim);
    for (int i = 0; shape && i < o->t->ndim; i++) {
        PyObject *n = PyLong_FromLongLong(o->t->shape[i]);
        if (!n) Py_CLEAR(shape); else PyTuple_SET_ITEM(shape, i, n);
    }
    return shape;
}
static PyObject *get_ndim(TensorObject *o, void *unused) { (void)unused; return PyLong_FromLong(o->t->ndim); }
static PyObject *get_size(TensorObject *o, void *unused) { (void)unused; return PyLong_FromLongLong(o->t->size); }
static PyObject *get_dtype(TensorObject *o, void *unused) { (void)unused; return PyUnicode_FromString(wm_dtype_name((wm_dtype)o->t->dtype)); }
static PyObject *get_device(TensorObject *o, void *unused) { (void)unused; return PyUnicode_FromString(wm_device_name(o->t->device)); }

static Py_ssize_t Tensor_length(TensorObject *o) {
    if (o->t->ndim) return (Py_ssize_t)o->t->shape[0];
    PyErr_SetString(PyExc_TypeError, "len() of a tensor with no axes");
    return -1;
}

static PyObject *Tensor_repr(TensorObject *o) {
    const wm_tensor *t = o->t;
    char shape[96];
    const char *grad = t->device ? t->needs_grad ? ", cuda, needs_grad" : ", cuda" : t->needs_grad ? ", needs_grad" : "";
    wm_shape_text(t, shape, sizeof shape);
    if (!t->raw || t->dtype == WM_BF16)
        return PyUnicode_FromFormat("Tensor(%s, %s%s%s)", shape, wm_dtype_name((wm_dtype)t->dtype), grad, t->raw ? "" : ", asleep");
    PyObject *a = Tensor_numpy(o, NULL), *np = a ? PyImport_ImportModule("numpy") : NULL;
    PyObject *text = np ? PyObject_CallMethod(np, "array2string", "OOiOss", a, Py_None, 4, Py_None, ", ", "Tensor(") : NULL;
    PyObject *r = text ? PyUnicode_FromFormat("Tensor(%U, shape=%s, %s%s)", text, shape, wm_dtype_name((wm_dtype)t->dtype), grad) : NULL;
    Py_XDECREF(text);
    Py_XDECREF(np);
    Py_XDECREF(a);
    return r;
}

/* ---- buffer protocol -------------------------------------------------------------------------- */

typedef struct { Py_ssize_t shape[WM_DIMS], strides[WM_DIMS]; wm_memory *memory; } buffer_info;

static int Tensor_getbuffer(TensorObject *o, Py_buffer *view, int flags) {
    static char *const formats[] = {[WM_F32] = "f", [WM_BF16] = "H", [WM_U8] = "B", [WM_I32] = "i"};
    wm_tensor *t = o->t;
    view->obj = NULL;
    if (wm_awake(t) < 0) return -1;
    if (t->device) {
        PyErr_Format(PyExc_BufferError, "Tensor: its numbers lie on %s; copy them with to('cpu')", wm_device_name(t->device));
        return -1;
    }
    buffer_info *info = PyMem_Malloc(sizeof *info);
    if (!info) { PyErr_NoMemory(); return -1; }
    Py_ssize_t size = (Py_ssize_t)wm_dtype_size((wm_dtype)t->dtype), stride = size;
    for (int i = t->ndim; i-- > 0;) info->shape[i] = (Py_ssize_t)t->shape[i], info->strides[i] = stride, stride *= info->shape[i];
    info->memory = t->memory;
    wm_export_begins(t->memory);
    *view = (Py_buffer){.buf = t->raw, .obj = Py_NewRef((PyObject *)o), .len = (Py_ssize_t)t->size * size, .itemsize = size,
                        .ndim = t->ndim, .internal = info,
                        .format = flags & PyBUF_FORMAT ? formats[t->dtype] : NULL,
                        .shape = flags & PyBUF_ND ? info->shape : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? info->strides : NULL};
    return 0;
}

static void Tensor_releasebuffer(TensorObject *o, Py_buffer *view) {
    (void)o;
    buffer_info *info = view->internal;
    wm_export_ends(info->memory);
    PyMem_Free(info);
}

/* ---- the type --------------------------------------------------------------------------------- */

static PyMethodDef Tensor_methods[] = {
    {"numpy", (PyCFunction)Tensor_numpy, METH_NOARGS, "numpy($self)\n--\n\nThe numbers as a NumPy array that shares their memory; of a CUDA tensor a read-only copy."},
    {"to", (PyCFunction)Tensor_to, METH_O, "to($self, device)\n--\n\nThe same numbers on 'cpu' or 'cuda': itself if they are there, else a copy, through which no gradient flows."},
    {"to_", (PyCFunction)Tensor_to_, METH_O, "to_($self, device)\n--\n\nMove the numbers, and the gradient, to 'cpu' or 'cuda'; views of it are refused."},
    {"item", (PyCFunction)Tensor_item, METH_NOARGS, "item($self)\n--\n\nThe one number of a tensor that has one."},
    {"copy_", (PyCFunction)Tensor_copy_, METH_O, "copy_($self, data)\n--\n\nOverwrite the numbers with data, broadcast as NumPy does."},
    {"zero_grad", (PyCFunction)Tensor_zero_grad, METH_NOARGS, "zero_grad($self)\n--\n\nForget the gradient."},
    {"retain_grad", (PyCFunction)Tensor_retain_grad, METH_NOARGS, "retain_grad($self)\n--\n\nKeep the gradient of this result after backward."},
    {"__array__", (PyCFunction)(void (*)(void))Tensor_array, METH_VARARGS | METH_KEYWORDS, NULL},
    {"__dlpack__", (PyCFunction)(void (*)(void))wm_dlpack, METH_VARARGS | METH_KEYWORDS,
     "A DLPack capsule that shares the numbers; stream as the array API says, so that a consumer's CUDA stream waits for ours."},
    {"__dlpack_device__", (PyCFunction)wm_dlpack_device, METH_NOARGS, "(1, 0): main memory; (2, id): CUDA."},
    {0},
};
static PyGetSetDef Tensor_getset[] = {
    {"shape", (getter)get_shape, NULL, "The length of each axis.", NULL},
    {"ndim", (getter)get_ndim, NULL, "How many axes.", NULL},
    {"size", (getter)get_size, NULL, "How many numbers.", NULL},
    {"dtype", (getter)get_dtype, NULL, "'float32', 'bfloat16', 'uint8' or 'int32'.", NULL},
    {"device", (getter)get_device, NULL, "'cpu' or 'cuda'.", NULL},
    {"stamp", (getter)get_stamp, NULL,
     "A number that changes when the numbers are written; None while NumPy or others may write them unseen.", NULL},
    {"needs_grad", (getter)get_needs_grad, (setter)set_needs_grad, "Whether backward adds to its gradient.", NULL},
    {"grad", (getter)get_grad, NULL, "The gradient as a NumPy array that shares its memory, or None; of a CUDA tensor a read-only copy.", NULL},
    {0},
};
static PyType_Slot Tensor_slots[] = {
    {Py_tp_new, Tensor_new}, {Py_tp_dealloc, Tensor_dealloc}, {Py_tp_methods, Tensor_methods}, {Py_tp_getset, Tensor_getset},
    {Py_tp_repr, Tensor_repr}, {Py_mp_length, Tensor_length}, {Py_bf_getbuffer, Tensor_getbuffer},
    {Py_bf_releasebuffer, Tensor_releasebuffer},
    {Py_tp_doc, "Tensor(data, dtype=None, *, needs_grad=False, copy=False, device=None)\n--\n\n"
                "Numbers on a device: float32, uint8, int32 or bfloat16, always contiguous, channels last.\n\n"
                "A NumPy array of one of the first three types is shared, not copied; it must be contiguous and writable\n"
                "(copy=True copies it).  Lists and arrays of other types are converted, which copies.\n"
                "device: 'cpu' or 'cuda', by default what set_device chose."},
    {0},
};
PyType_Spec wm_Tensor_spec = {"worldmodel.Tensor", sizeof(TensorObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, Tensor_slots};
