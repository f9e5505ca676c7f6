// The device "strict": its memory is the host's, its operators are the CPU's, its rules are CUDA's.
//
// - An operator whose tensors are on the CPU and on the device is refused. CUDA takes numbers without dims
//   from the CPU in pointwise operators, and indices; so does it.
// - Random numbers are not drawn from the CPU's generator.
// - A copy to pinned memory that does not block has not happened until an event behind it was asked for:
//   until then its target is full of bytes that are NaN in every floating-point dtype.

#include <ATen/EmptyTensor.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <string>

namespace {

using at::Tensor;
constexpr auto STRICT = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(STRICT, 0);
const c10::Stream STREAM(c10::Stream::DEFAULT, DEVICE);

// --- memory

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
DeviceMemory device_memory;
REGISTER_ALLOCATOR(STRICT, &device_memory);

std::mutex pinned_lock;
std::set<const void*> pinned;

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(bytes ? bytes : 1);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.insert(data);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* data) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase(data);
    std::free(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
PinnedMemory pinned_memory;

// --- copies that do not block, and events

struct LateCopy {
  Tensor from, to;  // both on the host; what the device held when the copy was begun
};
std::mutex late_lock;
std::deque<LateCopy> late;
uint64_t begun = 0, done = 0;

void finish(uint64_t until) {
  std::lock_guard<std::mutex> guard(late_lock);
  for (; done < until; done++) {
    late.front().to.copy_(late.front().from);
    late.pop_front();
  }
}

void finish_all() { finish(begun); }

struct Event {
  uint64_t until;
  bool asked;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = STRICT;
  c10::DeviceType type() const override { return STRICT; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return STREAM; }
  c10::Stream getDefaultStream(c10::Device) const override { return STREAM; }
  c10::Stream getNewStream(c10::Device, int) const override { return STREAM; }
  c10::Stream exchangeStream(c10::Stream) const override { return STREAM; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (!*event) *event = new Event;
    *static_cast<Event*>(*event) = {begun, false};
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {  // not yet, then yes
    auto* one = static_cast<Event*>(event);
    if (!one) return true;
    if (!std::exchange(one->asked, true) && one->until > done) return false;
    finish(one->until);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (event) finish(static_cast<Event*>(event)->until);
  }
  bool queryStream(const c10::Stream&) const override { return begun == done; }
  void synchronizeStream(const c10::Stream&) const override { finish_all(); }
  void synchronizeDevice(c10::DeviceIndex) const override { finish_all(); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> guard(pinned_lock);
    return pinned.count(data) > 0;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto data = device_memory.allocate(bytes);
    if (auto kept = std::min(bytes, storage.nbytes())) std::memcpy(data.get(), storage.data(), kept);
    auto* own = storage.unsafeGetStorageImpl();
    own->set_data_ptr_noswap(std::move(data));
    own->set_nbytes(bytes);
  }
};
Hooks hooks;

// --- what has to know of memory: making tensors, views, copies

Tensor empty(c10::IntArrayRef sizes, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
             std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<c10::ScalarType> dtype,
                     std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(sizes, strides, &device_memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

Tensor on_host(const Tensor& tensor) {  // the same memory
  if (tensor.device().is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       at::TensorOptions().dtype(tensor.dtype()));
}

thread_local bool computing = false;

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (to.numel() == 0) return to;
  auto source = on_host(from), target = on_host(to);
  if (to.device().is_cpu() && !computing) {
    if (non_blocking && to.is_non_overlapping_and_dense() && hooks.isPinnedPtr(to.storage().data())) {
      auto seen = source.clone();
      std::memset(target.data_ptr(), 0xff, target.nbytes());
      std::lock_guard<std::mutex> guard(late_lock);
      late.push_back({seen, target});
      begun++;
      return to;
    }
    finish_all();
  }
  target.copy_(source);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// --- every other operator

// Beside those that PyTorch calls pointwise: what takes a number without dims from the CPU.
const std::set<std::string> TAKES_NUMBERS = {"aten::fill_",       "aten::masked_fill_", "aten::floor_divide",
                                             "aten::index_fill_", "aten::index_put_",   "aten::_index_put_impl_"};
const std::set<std::string> TAKES_INDICES = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};

void refuse_mixed(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  const bool numbers = op.hasTag(at::Tag::pointwise) || TAKES_NUMBERS.count(name);
  const bool indices = TAKES_INDICES.count(name);
  const auto count = op.schema().arguments().size();
  bool on_device = false;
  std::string other;
  auto see = [&](const Tensor& tensor, bool may_be_on_host) {
    if (!tensor.defined()) return;
    if (tensor.device().type() == STRICT) {
      on_device = true;
    } else if (!may_be_on_host && !(numbers && tensor.dim() == 0)) {
      other = "a tensor of " + c10::str(tensor.sizes()) + " on " + tensor.device().str();
    }
  };
  for (size_t index = 0; index < count; index++) {
    const auto& value = stack[stack.size() - count + index];
    if (value.isTensor()) {
      see(value.toTensor(), false);
    } else if (value.isTensorList()) {
      for (const Tensor& one : value.toTensorVector()) see(one, false);
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<Tensor>& one : value.toOptionalTensorList())
        if (one) see(*one, indices);
    } else if (value.isGenerator() && value.toGenerator().defined()) {
      other = "the generator of " + value.toGenerator().device().str();
    }
  }
  TORCH_CHECK(!on_device || other.empty(), name, " mixes devices: beside tensors on strict:0 there is ", other);
}

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_mixed(op, *stack);
  if (op.schema().name() == "aten::_local_scalar_dense") finish_all();
  struct Computing {
    bool before = std::exchange(computing, true);
    ~Computing() { computing = before; }
  } scope;
  at::native::cpu_fallback(op, stack);
}

// CUDA's kernel with the log-sum-exp, whose length it rounds up.
std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias, bool,
    double dropout, bool causal, std::optional<double> scale) {
  TORCH_CHECK(k.device() == q.device() && v.device() == q.device() && !bias, "attention mixes devices, or has a bias");
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(on_host(q), on_host(k), on_host(v), dropout,
                                                                    causal, std::nullopt, scale);
  const auto length = lse.size(2);
  auto rounded = at::full({lse.size(0), lse.size(1), (length + 31) / 32 * 32}, NAN, lse.options());
  rounded.narrow(2, 0, length).copy_(lse);
  return {out.to(DEVICE), rounded.to(DEVICE), at::empty({}), at::empty({})};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("resize_", at::native::resize_);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("_scaled_dot_product_efficient_attention", efficient_attention);
  // Composed of other operators otherwise than on a CPU, so that their bits would differ.
  for (auto* name : {"convolution", "scaled_dot_product_attention", "native_layer_norm", "native_group_norm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

const bool registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

}  // namespace
