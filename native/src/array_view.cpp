#include "array_view.hpp"

#include <cstring>

namespace nb = nanobind;

namespace tercet {
namespace {

std::string text(const index_t* shape, std::size_t dimensions) {
    std::string s = "(";
    for (std::size_t i = 0; i < dimensions; ++i) {
        s += (i ? ", " : "") + std::to_string(shape[i]);
    }
    return s + (dimensions == 1 ? ",)" : ")");
}

bool is_unsigned(const char* format, std::size_t element_size) {
    if (format == nullptr) {
        return element_size == 1;
    }
    if (*format == '@' || *format == '=' || *format == '<') {
        ++format;
    }
    const char* codes = element_size == 1 ? "B" : "LQ";
    return *format != '\0' && std::strchr(codes, *format) != nullptr && format[1] == '\0';
}

}  // namespace

ArrayView::ArrayView(nb::handle object, const char* name, int dimensions, Access access,
                     std::size_t element_size)
    : name_(name) {
    const std::string argument(name);
    const std::string dtype = element_size == 1 ? "uint8" : "uint64";
    if (!PyObject_CheckBuffer(object.ptr()) ||
        PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
        PyErr_Clear();
        throw nb::type_error((argument + " must be a NumPy array of dtype " + dtype + ", not " +
                              Py_TYPE(object.ptr())->tp_name)
                                 .c_str());
    }
    // From here on the buffer has to be released by hand: the destructor does not run.
    const auto fail = [&](const std::string& what) {
        PyBuffer_Release(&buffer_);
        return argument + " " + what;
    };
    if (static_cast<std::size_t>(buffer_.itemsize) != element_size ||
        !is_unsigned(buffer_.format, element_size)) {
        throw nb::type_error(fail("must have dtype " + dtype + " in native byte order").c_str());
    }
    if (buffer_.ndim != dimensions) {
        const int actual = buffer_.ndim;
        throw nb::value_error(fail("must have " + std::to_string(dimensions) + " dimensions, not " +
                                   std::to_string(actual))
                                  .c_str());
    }
    if (!PyBuffer_IsContiguous(&buffer_, 'C')) {
        throw nb::value_error(fail("must be C-contiguous").c_str());
    }
    if (reinterpret_cast<std::uintptr_t>(buffer_.buf) % element_size != 0) {
        throw nb::value_error(fail("must be aligned").c_str());
    }
    if (access == Access::write && buffer_.readonly) {
        throw nb::value_error(fail("must be writable").c_str());
    }
}

std::string ArrayView::shape_text() const {
    return text(buffer_.shape, static_cast<std::size_t>(buffer_.ndim));
}

void ArrayView::require_shape(std::initializer_list<index_t> shape, const char* meaning) const {
    bool same = shape.size() == static_cast<std::size_t>(buffer_.ndim);
    for (std::size_t i = 0; same && i < shape.size(); ++i) {
        same = shape.begin()[i] == buffer_.shape[i];
    }
    if (!same) {
        throw nb::value_error((std::string(name_) + " has shape " + shape_text() + ", but " +
                               text(shape.begin(), shape.size()) + " is needed: " + meaning)
                                  .c_str());
    }
}

void ArrayView::require_apart(std::initializer_list<const ArrayView*> inputs) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(buffer_.buf);
    const auto end = begin + static_cast<std::uintptr_t>(buffer_.len);
    for (const ArrayView* input : inputs) {
        const auto other = reinterpret_cast<std::uintptr_t>(input->buffer_.buf);
        const auto other_end = other + static_cast<std::uintptr_t>(input->buffer_.len);
        if (begin < other_end && other < end && begin != end && other != other_end) {
            throw nb::value_error(
                (std::string(name_) + " must not share memory with " + input->name_).c_str());
        }
    }
}

}  // namespace tercet
