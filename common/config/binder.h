#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/config/node.h"
#include "common/config/scalar.h"

namespace palimpsest {

// How one type is read from and written to a Node; specialized below for all types a config holds.
template <class T>
struct Codec;

// The names and places of a struct's fields, told once by `void Bind(Binder&, MyConfig&)` next to
// the struct; parsing, overrides and --print-config all follow from it:
//   void Bind(Binder& b, SchedulerConfig& c) {
//     b.Field("max_batch_tokens", c.max_batch_tokens, "tokens per engine step");
//     b.Bytes("cache", c.cache_bytes, "for live KV");
//     b.Section("store", c.store, "where weights are found");
//   }
// Keeps references: it must not outlive the struct. One thread.
class Binder {
 public:
  // bool, integers, float, double, string, absl::Duration, std::optional, std::vector,
  // std::map<std::string, ..>, and structs that have a Bind.
  template <class T>
  void Field(std::string_view key, T& value, std::string_view doc) {
    Add(
        key, doc,
        [&value](const Node& node, const std::string& path) {
          return Codec<T>::Read(node, path, value);
        },
        [&value] { return Codec<T>::Write(value); });
  }

  // A nested struct. Keys that the file leaves out keep the values that `value` has now.
  template <class T>
  void Section(std::string_view key, T& value, std::string_view doc = "") {
    Field(key, value, doc);
  }

  // A size in bytes, written with its unit: 64MiB.
  void Bytes(std::string_view key, int64_t& value, std::string_view doc);

  // `names` must list every value of E that can occur; they are added to the doc.
  template <class E>
  void Enum(std::string_view key, E& value,
            std::vector<std::pair<std::string_view, std::type_identity_t<E>>> names,
            std::string_view doc) {
    std::vector<std::string_view> words;
    for (const auto& [word, meaning] : names) words.push_back(word);
    const auto read = [&value, names, words](const Node& node, const std::string& path) {
      ASSIGN_OR_RETURN(const size_t index, ReadWord(node, path, words));
      value = names[index].second;
      return absl::OkStatus();
    };
    const auto write = [&value, names] {
      for (const auto& [word, meaning] : names) {
        if (meaning == value) return Node::Scalar(std::string(word), true);
      }
      return Node();
    };
    Add(key, DocWithWords(doc, words), read, write);
  }

  // Fills the bound fields from a map. Keys that are neither bound nor in `other_keys` are errors.
  absl::Status Read(const Node& map, const std::string& path,
                    std::span<const std::string_view> other_keys = {}) const;

  // The present values with their docs, in the order of the binding.
  Node Write() const;

 private:
  struct Entry {
    std::string key;
    std::string doc;
    std::function<absl::Status(const Node&, const std::string& path)> read;
    std::function<Node()> write;
  };

  void Add(std::string_view key, std::string_view doc,
           std::function<absl::Status(const Node&, const std::string&)> read,
           std::function<Node()> write);
  static absl::StatusOr<size_t> ReadWord(const Node& node, std::string_view path,
                                         std::span<const std::string_view> words);
  static std::string DocWithWords(std::string_view doc, std::span<const std::string_view> words);

  std::vector<Entry> entries_;
  std::string twice_;  // a key that was bound twice: a bug of the Bind, told by Read
};

template <class T>
concept Bindable = requires(Binder& b, T& value) {
  Bind(b, value);
};

template <Bindable T>
struct Codec<T> {
  static absl::Status Read(const Node& node, const std::string& path, T& value) {
    Binder binder;
    Bind(binder, value);
    return binder.Read(node, path);
  }
  static Node Write(T& value) {
    Binder binder;
    Bind(binder, value);
    return binder.Write();
  }
};

template <>
struct Codec<bool> {
  static absl::Status Read(const Node& node, const std::string& path, bool& value) {
    ASSIGN_OR_RETURN(value, ReadBool(node, path));
    return absl::OkStatus();
  }
  static Node Write(bool value) { return Node::Scalar(value ? "true" : "false"); }
};

template <std::signed_integral T>
struct Codec<T> {
  static absl::Status Read(const Node& node, const std::string& path, T& value) {
    using Limits = std::numeric_limits<T>;
    ASSIGN_OR_RETURN(const int64_t wide, ReadInt(node, path, Limits::min(), Limits::max()));
    value = static_cast<T>(wide);
    return absl::OkStatus();
  }
  static Node Write(T value) { return Node::Scalar(std::to_string(value)); }
};

template <std::unsigned_integral T>
struct Codec<T> {
  static absl::Status Read(const Node& node, const std::string& path, T& value) {
    ASSIGN_OR_RETURN(const uint64_t wide, ReadUint(node, path, std::numeric_limits<T>::max()));
    value = static_cast<T>(wide);
    return absl::OkStatus();
  }
  static Node Write(T value) { return Node::Scalar(std::to_string(value)); }
};

template <>
struct Codec<double> {
  static absl::Status Read(const Node& node, const std::string& path, double& value) {
    ASSIGN_OR_RETURN(value, ReadDouble(node, path));
    return absl::OkStatus();
  }
  static Node Write(double value) { return Node::Scalar(WriteDouble(value)); }
};

template <>
struct Codec<float> {
  static absl::Status Read(const Node& node, const std::string& path, float& value) {
    ASSIGN_OR_RETURN(value, ReadFloat(node, path));
    return absl::OkStatus();
  }
  static Node Write(float value) { return Node::Scalar(WriteFloat(value)); }
};

template <>
struct Codec<std::string> {
  static absl::Status Read(const Node& node, const std::string& path, std::string& value) {
    ASSIGN_OR_RETURN(value, ReadString(node, path));
    return absl::OkStatus();
  }
  static Node Write(const std::string& value) { return Node::Scalar(value, true); }
};

template <>
struct Codec<absl::Duration> {
  static absl::Status Read(const Node& node, const std::string& path, absl::Duration& value) {
    ASSIGN_OR_RETURN(value, ReadDuration(node, path));
    return absl::OkStatus();
  }
  static Node Write(absl::Duration value) {
    if (value == absl::ZeroDuration()) return Node::Scalar("0s");
    return Node::Scalar(absl::FormatDuration(value));
  }
};

// null is "none".
template <class T>
struct Codec<std::optional<T>> {
  static absl::Status Read(const Node& node, const std::string& path, std::optional<T>& value) {
    if (node.kind == Node::Kind::kNull) {
      value.reset();
      return absl::OkStatus();
    }
    T read = value.value_or(T());
    RETURN_IF_ERROR(Codec<T>::Read(node, path, read));
    value = std::move(read);
    return absl::OkStatus();
  }
  static Node Write(std::optional<T>& value) {
    return value.has_value() ? Codec<T>::Write(*value) : Node();
  }
};

// A list replaces what was there.
template <class T>
struct Codec<std::vector<T>> {
  static absl::Status Read(const Node& node, const std::string& path, std::vector<T>& value) {
    if (node.kind != Node::Kind::kSequence) {
      return ConfigError(node.where, path, "expected a list, found " + std::string(KindName(node)));
    }
    std::vector<T> read;
    for (const Node& item : node.items) {
      T element{};
      RETURN_IF_ERROR(
          Codec<T>::Read(item, path + "[" + std::to_string(read.size()) + "]", element));
      read.push_back(std::move(element));
    }
    value = std::move(read);
    return absl::OkStatus();
  }
  static Node Write(std::vector<T>& value) {
    Node node;
    node.kind = Node::Kind::kSequence;
    for (size_t i = 0; i < value.size(); ++i) {
      T element = value[i];
      node.items.push_back(Codec<T>::Write(element));
    }
    return node;
  }
};

// A map replaces what was there.
template <class T>
struct Codec<std::map<std::string, T>> {
  static absl::Status Read(const Node& node, const std::string& path,
                           std::map<std::string, T>& value) {
    if (node.kind != Node::Kind::kMap) {
      return ConfigError(node.where, path, "expected a map, found " + std::string(KindName(node)));
    }
    std::map<std::string, T> read;
    for (size_t i = 0; i < node.items.size(); ++i) {
      RETURN_IF_ERROR(Codec<T>::Read(node.items[i], JoinPath(path, node.keys[i].text),
                                     read[node.keys[i].text]));
    }
    value = std::move(read);
    return absl::OkStatus();
  }
  static Node Write(std::map<std::string, T>& value) {
    Node node;
    node.kind = Node::Kind::kMap;
    for (auto& [key, element] : value) {
      node.keys.push_back({key, "", ""});
      node.items.push_back(Codec<T>::Write(element));
    }
    return node;
  }
};

}  // namespace palimpsest
