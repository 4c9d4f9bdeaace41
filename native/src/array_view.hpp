// Arguments that are NumPy arrays, taken through the buffer protocol and checked, with messages
// that name the argument.
#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace tercet {

enum class Access { read, write };

// Holds a C-contiguous buffer of uint64 or uint8 elements. Create and destroy it with the GIL held.
class ArrayView {
public:
    // Throws TypeError for something that is not an array of this element size, ValueError for one
    // with the wrong number of dimensions, layout, alignment or access.
    ArrayView(nanobind::handle object, const char* name, int dimensions, Access access,
              std::size_t element_size = sizeof(u64));
    ~ArrayView() { PyBuffer_Release(&buffer_); }
    ArrayView(const ArrayView&) = delete;
    ArrayView& operator=(const ArrayView&) = delete;

    index_t size(int axis) const { return buffer_.shape[axis]; }
    template <class T = u64>
    T* data() const {
        return static_cast<T*>(buffer_.buf);
    }
    std::string shape_text() const;
    const char* name() const { return name_; }

    // Throws ValueError unless the shape is this one; `meaning` says where it comes from.
    void require_shape(std::initializer_list<index_t> shape, const char* meaning) const;
    // Throws ValueError if this output shares memory with an input.
    void require_apart(std::initializer_list<const ArrayView*> inputs) const;

private:
    Py_buffer buffer_{};
    const char* name_;
};

}  // namespace tercet
