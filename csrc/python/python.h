/* What the files of python/ share. The only place besides them that knows the interpreter is none.
 */
#ifndef GEMS_PYTHON_H
#define GEMS_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../torch/torch.h"

/* How tensors are read: the fastest that the probe found right; tests force the others. */
typedef enum gems_reader {
    GEMS_BY_NONE,
    GEMS_BY_HANDLE,
    GEMS_BY_PYOBJECT,
    GEMS_BY_DLPACK,
    GEMS_BY_ATTRIBUTES
} gems_reader;

/* Objects of torch and of ours, held for the life of the process; NULL while torch is not attached.
 */
typedef struct gems_objects {
    PyObject *torch;
    PyTypeObject *tensor, *parameter, *dtype_type, *device_type;
    PyObject *dtypes[GEMS_DTYPES]; /* torch.float32 ... by number */
    PyObject *memory_formats[4];   /* contiguous, preserve, channels_last, channels_last_3d */
    PyObject *strided;             /* torch.strided */
    PyObject *aten;                /* torch.ops.aten */
    PyObject *keyset;              /* DispatchKeySet of the key that is registered on */
    PyObject *dispatch_keys;       /* torch._C._dispatch_keys */
    PyObject *steal_handle;        /* torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr */
    PyObject *give_handle;         /* torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors */
    PyObject *forward_level;       /* __dict__ of torch.autograd.forward_ad */
    PyObject *random_kernel;       /* ATen's own random_ on CPU tensors */
    PyObject *declined_error;      /* flag_gems.DeclinedError */
    PyObject *register_entries;    /* overrides: registers entries for good */
    PyObject *own_operator;        /* library: row -> torch.ops.flag_gems.<name>, defined when it was not */
    PyObject *record;              /* observe: called for each call while logging */
    PyObject **argument_names;     /* interned; GEMS_MAX_ARGS an entry; room for added ones */
    PyObject **kernels;            /* ATen's kernel of each registered entry: its call_boxed */
    const struct gems_dlpack_api *dlpack;
    gems_reader reader;
    bool strict;
} gems_objects;
extern gems_objects gems_py;

/* Everything that one call from Python needs while it runs. */
typedef struct gems_frame {
    gems_call call;
    gems_torch_call made;
    bool numpy_ran; /* the two below are set */
    PyObject *numpy_out[GEMS_MAX_OUTS];
    PyObject *numpy_scratch[GEMS_MAX_SCRATCH];
    PyObject *objects[GEMS_MAX_ARGS]; /* borrowed; NULL where the default stands */
    bool direct;                      /* called by flag_gems.ops, not by the dispatcher */
    bool has_torch, has_numpy, has_number;
    bool autograd;  /* some tensor has autograd data */
    bool inference; /* some tensor is an inference tensor */
    PyObject *held; /* a tuple: what a list of tensors held when it was read */
    void *blocks;   /* memory and handles that live as long as the frame */
    int used;
    int64_t store[160];
} gems_frame;

void gems_frame_open(gems_frame *frame, gems_entry *entry, bool direct);
void gems_frame_close(gems_frame *frame);
/* Memory for the length of the call; NULL when there is none. */
void *gems_frame_take(gems_frame *frame, size_t bytes);
/* Keeps a tensor handle to delete when the frame closes. False: no memory; the handle is deleted.
 */
bool gems_frame_own(gems_frame *frame, void *handle);

/* How arguments fit a schema. PASS: the dispatcher or ATen must take the call; gems_reason() says
 * why. */
typedef enum gems_match { GEMS_MATCH, GEMS_MISMATCH, GEMS_PASS } gems_match;

/* Reads the arguments of a vectorcall by the entry's schema. Never leaves a Python error set. */
gems_match gems_arguments(gems_frame *frame, PyObject *const *args, Py_ssize_t count,
                          PyObject *keywords);

/* tensor.c */
gems_match gems_read_tensor(gems_frame *frame, PyObject *object, gems_tensor *t);
/* Makes sure that a tensor read may be written. */
gems_match gems_write_tensor(PyObject *object, gems_tensor *t);
static inline bool gems_is_tensor(PyObject *object) {
    return Py_TYPE(object) == gems_py.tensor || Py_TYPE(object) == gems_py.parameter;
}
/* True when autograd, forward or backward, must see a call of these arguments. */
bool gems_wants_gradient(const gems_frame *frame);
/* True while a mode or transform of torch is active on this thread. */
bool gems_modes_active(void);
/* A Python tensor from a new handle, which is taken; NULL with an error set. */
PyObject *gems_wrap(void *handle);
/* A new handle of a Python tensor; NULL with an error set. */
void *gems_unwrap(PyObject *tensor);
bool gems_set_reader(const char *name); /* false: not usable here, with a Python error */
const char *gems_reader_name(void);

/* probe.c: finds gems_layout and the reader. False with a Python error. */
bool gems_probe(void);

/* result.c */
/* Runs the call; the GIL is released meanwhile when it is long. */
gems_status gems_frame_run(gems_frame *frame);
/* The call's results as Python objects; NULL with an error set. */
PyObject *gems_results(gems_frame *frame);
void *gems_set_error(void); /* raises gems_error_text() with its type; NULL */
void *gems_set_declined(const char *operator_name,
                        const char *reason); /* raises DeclinedError; NULL */

/* fallback.c */
PyObject *gems_call_aten(const gems_entry *entry, PyObject *const *args, Py_ssize_t count,
                         PyObject *keywords);
/* A 0-dim tensor that promotes beside another tensor (or NULL) as the number would. New reference. */
PyObject *gems_stand_in(PyObject *number, PyObject *other);
void gems_fallback_shim(gems_entry *entry, uint64_t *stack, const char *reason);
void gems_raise_shim(void);
void gems_count_decline(gems_entry *entry);

/* route_library.c: a builtin that torch.library can register for an entry. New reference. */
PyObject *gems_library_function(int entry);
/* direct.c: adds all functions of flag_gems.ops to a dict, name -> builtin. */
bool gems_direct_functions(PyObject *dict);
/* Calls args[0] with the rest while this thread's calls of any entry run our kernels, gates or not. */
PyObject *gems_forced(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
/* A builtin for a row of this package's own: its overloads, as in flag_gems.ops. New reference. */
PyObject *gems_own_function(int row);
/* Interns the names of an entry's arguments; false with an error set. */
bool gems_name_arguments(int entry);
/* Names of the functions that reach an entry; NULL when there are no more. */
const char *gems_function_name(int entry, int i);

/* random.c */
gems_status gems_philox(gems_call *call, void *generator, uint64_t increment, uint64_t *seed,
                        uint64_t *offset);
gems_status gems_resize(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes);

/* numpy_host.c */
extern const gems_host gems_host_numpy;
bool gems_numpy_attach(void); /* false with a Python error when NumPy cannot be imported */
bool gems_is_array(PyObject *object);
bool gems_is_numpy_number(PyObject *object);
bool gems_array_writable(PyObject *array);
gems_match gems_read_array(gems_frame *frame, PyObject *object, gems_tensor *t);
int gems_numpy_dtype(PyObject *object); /* of a np.dtype or a scalar type; GEMS_NO_DTYPE */

/* observe.c */
void gems_observe(const gems_call *call, gems_status status, int64_t nanoseconds);
int64_t gems_now(void);
extern PyMethodDef gems_observe_methods[], gems_tuning_methods[];

/* inspect.c, table.c, attach.c */
extern PyMethodDef gems_inspect_methods[], gems_table_methods[], gems_attach_methods[];
void gems_attach_open(void); /* lets compiles run without the GIL */

/* Most entries that one library registers. */
#define GEMS_MAX_ENTRIES_REGISTERED 1024

#endif
