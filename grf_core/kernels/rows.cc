// Segments as Python holds them -> the rows of a batch. One call for all of them, and their frames stay where they are:
// in Python each took a table's entry, three conversions and a copy, as long as the runtime needs for a segment's order.
//
// Of Python's stable ABI (3.11 and newer) only what is used is declared here: where there is a compiler there need not be
// Python's headers.
#include <cstddef>
#include <cstring>

#include "model.h"

extern "C" {
struct PyObject;
struct Py_buffer {
  void* buf;
  PyObject* obj;
  ptrdiff_t len, itemsize;
  int readonly, ndim;
  char* format;
  ptrdiff_t *shape, *strides, *suboffsets;
  void* internal;
};
ptrdiff_t PyList_Size(PyObject*);
PyObject* PyList_GetItem(PyObject*, ptrdiff_t);   // borrowed
PyObject* PyTuple_GetItem(PyObject*, ptrdiff_t);  // borrowed; null, with the error set, if there is none
long long PyLong_AsLongLong(PyObject*);
double PyFloat_AsDouble(PyObject*);
int PyObject_GetBuffer(PyObject*, Py_buffer*, int flags);
void PyBuffer_Release(Py_buffer*);
PyObject* PyErr_Occurred();
PyObject* PyErr_Format(PyObject*, const char*, ...);
extern PyObject* PyExc_ValueError;
}

namespace {

constexpr int FORMAT = 0x0004, IN_ONE_PIECE = 0x0020 | 0x0010 | 0x0008;  // PyBUF_FORMAT, PyBUF_C_CONTIGUOUS

// A field of a step, or null with the error set.
PyObject* field(PyObject* step, int number) { return PyErr_Occurred() ? nullptr : PyTuple_GetItem(step, number); }

int64_t integer(PyObject* value) { return value ? PyLong_AsLongLong(value) : 0; }

// "=f" is what NumPy calls them at an address that is no multiple of four, which loads do not mind.
bool is_float32(const char* format) {
  return !std::strcmp(format, "f") || !std::strcmp(format, "<f") || !std::strcmp(format, "=f");
}

// The error is set if the frames are not [T, F] float32 in one piece.
void find(PyObject* frames, grf::Row& row) {
  Py_buffer view;
  if (!frames || PyObject_GetBuffer(frames, &view, FORMAT | IN_ONE_PIECE) < 0) return;
  const char* format = view.format ? view.format : "B";
  if (view.ndim == 2 && is_float32(format)) {
    row.length = view.shape[0];
    row.n_values = view.len / 4;
    row.frames = static_cast<const float*>(view.buf);
  } else {
    PyErr_Format(PyExc_ValueError, "frames have %d dimensions of type %s, not two of float32", view.ndim, format);
  }
  PyBuffer_Release(&view);  // whoever holds the step holds the frames, and so their memory
}

}  // namespace

// `steps`: a list of `RowStep`s, which must live as long as the rows are used. Called by `ctypes.PyDLL`, which holds the
// interpreter's lock and raises what error is set.
extern "C" void grf_rows(PyObject* steps, grf::Row* rows) {
  const ptrdiff_t count = PyList_Size(steps);
  for (ptrdiff_t i = 0; i < count && !PyErr_Occurred(); i++) {
    PyObject* step = PyList_GetItem(steps, i);
    rows[i].from = integer(field(step, 0));
    rows[i].to = integer(field(step, 1));
    rows[i].rank = integer(field(step, 2));
    find(field(step, 3), rows[i]);
    PyObject* elapsed_s = field(step, 4);
    rows[i].elapsed_s = elapsed_s ? PyFloat_AsDouble(elapsed_s) : 0.0;
  }
}
