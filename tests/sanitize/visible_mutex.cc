// Debian's abseil is built without tsan's annotations: tsan would not see that a Mutex orders what
// threads do under it and would report every value it guards. These definitions stand before the
// library's, tell tsan and go on there. Linked into each program of the preset tsan.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

#define PALIMPSEST_TEXT(name) #name
#define PALIMPSEST_TEXT_OF(name) PALIMPSEST_TEXT(name)

// The library's own function; `mangled` is what follows the namespace.
template <class Function>
Function* Library(const char* mangled, const char* prefix = "_ZN") {
  const std::string inlined = PALIMPSEST_TEXT_OF(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      std::string(prefix) + "4absl" + std::to_string(inlined.size()) + inlined + mangled;
  void* const found = dlsym(RTLD_NEXT, name.c_str());
  if (found == nullptr) {
    std::fprintf(stderr, "%s is not in abseil's library\n", name.c_str());
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

using absl::Condition;
using absl::Mutex;
using Plain = void(Mutex*);

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static Plain* const library = Library<Plain>("5Mutex4LockEv");
  __tsan_mutex_pre_lock(this, 0);
  library(this);
  __tsan_mutex_post_lock(this, 0, 0);
}

void Mutex::Unlock() {
  static Plain* const library = Library<Plain>("5Mutex6UnlockEv");
  __tsan_mutex_pre_unlock(this, 0);
  library(this);  // evaluates conditions of others, which tsan ignores until:
  __tsan_mutex_post_unlock(this, 0);
}

void Mutex::ReaderLock() {
  static Plain* const library = Library<Plain>("5Mutex10ReaderLockEv");
  __tsan_mutex_pre_lock(this, __tsan_mutex_read_lock);
  library(this);
  __tsan_mutex_post_lock(this, __tsan_mutex_read_lock, 0);
}

void Mutex::ReaderUnlock() {
  static Plain* const library = Library<Plain>("5Mutex12ReaderUnlockEv");
  __tsan_mutex_pre_unlock(this, __tsan_mutex_read_lock);
  library(this);
  __tsan_mutex_post_unlock(this, __tsan_mutex_read_lock);
}

void Mutex::LockWhen(const Condition& condition) {
  using Function = void(Mutex*, const Condition&);
  static Function* const library = Library<Function>("5Mutex8LockWhenERKNS0_9ConditionE");
  __tsan_mutex_pre_lock(this, 0);
  library(this, condition);
  __tsan_mutex_post_lock(this, 0, 0);
}

// LockWhenWithTimeout goes through it.
bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  using Function = bool(Mutex*, const Condition&, Time);
  static Function* const library =
      Library<Function>("5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  __tsan_mutex_pre_lock(this, 0);
  const bool met = library(this, condition, deadline);
  __tsan_mutex_post_lock(this, 0, 0);
  return met;
}

// All that awaits. The lock is held exclusively, as everywhere in this project.
bool Mutex::AwaitCommon(const Condition& condition,
                        synchronization_internal::KernelTimeout timeout) {
  using Function = bool(Mutex*, const Condition&, synchronization_internal::KernelTimeout);
  static Function* const library = Library<Function>(
      "5Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE");
  __tsan_mutex_pre_unlock(this, 0);
  __tsan_mutex_post_unlock(this, 0);
  __tsan_mutex_pre_lock(this, 0);
  const bool met = library(this, condition, timeout);
  __tsan_mutex_post_lock(this, 0, 0);
  return met;
}

// Who finds it notified takes no lock.
void Notification::Notify() {
  using Function = void(Notification*);
  static Function* const library = Library<Function>("12Notification6NotifyEv");
  __tsan_release(this);
  library(this);
}

void Notification::WaitForNotification() const {
  using Function = void(const Notification*);
  static Function* const library =
      Library<Function>("12Notification19WaitForNotificationEv", "_ZNK");
  library(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

// As above.
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  using Function = bool(const Notification*, Duration);
  static Function* const library =
      Library<Function>("12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", "_ZNK");
  const bool met = library(this, timeout);
  if (met) __tsan_acquire(const_cast<Notification*>(this));
  return met;
}

ABSL_NAMESPACE_END
}  // namespace absl
