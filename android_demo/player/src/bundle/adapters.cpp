// Adapters that a bundle carries: low-rank changes of the checkpoint's weights (docs/adapters.md); and whether what is
// said of how stored weights are made fits together.
#include <math.h>
#include <stdio.h>

#include "base/sort.h"
#include "bundle/made.h"

namespace od {
namespace {

constexpr size_t kMaxAdapters = 256, kMaxName = 64, kMaxTerms = 16, kMaxParts = 16, kMaxWeights = 65536;
constexpr double kFloatMax = 3.4028234663852886e38;

const char* name_of_other(MadeOp op) {
  switch (op) {
    case MadeOp::int8:
      return "int8_scales";
    case MadeOp::int4:
      return "int4_scales";
    case MadeOp::int8_scales:
      return "int8";
    default:
      return "int4";
  }
}

MadeOp other_of(MadeOp op) {
  switch (op) {
    case MadeOp::int8:
      return MadeOp::int8_scales;
    case MadeOp::int4:
      return MadeOp::int4_scales;
    case MadeOp::int8_scales:
      return MadeOp::int8;
    default:
      return MadeOp::int4;
  }
}

bool same(const Made& a, const Made& b) {
  if (a.op != b.op || a.shape != b.shape || a.weight != b.weight || a.of.count != b.of.count || a.by != b.by ||
      a.axis != b.axis || a.columns != b.columns || a.width != b.width || a.halves != b.halves || a.fill != b.fill) {
    return false;
  }
  for (u32 i = 0; i < kMaxRank; ++i) {
    if (a.perm[i] != b.perm[i]) return false;
  }
  for (size_t i = 0; i < a.of.count; ++i) {
    if (!same(a.of[i], b.of[i])) return false;
  }
  return true;
}

u64 hash(const Made& made, u64 seed) {
  const auto add = [&](u64 value) { seed = (seed ^ value) * 0x100000001b3; };
  add(static_cast<u64>(made.op));
  for (u32 i = 0; i < made.shape.rank; ++i) add(made.shape.dims[i]);
  for (const u8 letter : made.weight.bytes()) add(letter);
  for (const Made& part : made.of) seed = hash(part, seed);
  return seed;
}

// A weight of the checkpoint, and what it is said to be.
struct Leaf {
  Text name;
  const Shape* shape;
  size_t order;
  bool made;  // whether a stored weight comes from it
};

// A weight in few bits, or its scales.
struct Few {
  u64 hash;
  const Made* step;
  WeightEntry* weight;
};

}  // namespace

class AdapterReader {
 public:
  AdapterReader(const Checker& check, Pool& pool, Span<WeightEntry> weights)
      : check_(check), pool_(pool), weights_(weights) {}

  // `modules` may be null.
  bool check_made(const Json* modules) {
    if (modules && !read_modules(*modules)) return false;
    for (size_t i = 0; i < weights_.count; ++i) {
      if (weights_[i].made && !add_leaves(*weights_[i].made)) return no_memory();
    }
    sort(leaves_.span(), [](const Leaf& a, const Leaf& b) {
      const int order = compare(a.name, b.name);
      return order ? order < 0 : a.order < b.order;
    });
    size_t count = 0;
    for (const Leaf& leaf : leaves_) {
      if (count && leaves_[count - 1].name == leaf.name) {
        leaves_[count - 1].made = leaves_[count - 1].made || leaf.made;
      } else {
        leaves_[count++] = leaf;
      }
    }
    leaves_.resize(count);
    for (const WeightEntry& weight : weights_) {
      if (weight.made && !check_leaves(weight, *weight.made)) return false;
    }
    return find_others();
  }

  bool read(const Json& value, const Manifest& manifest, Span<AdapterEntry>& out) {
    const Place at("adapters");
    if (!check_.table(value, kMaxAdapters, at) || !pool_.array(out, value.members.count, check_.error())) return false;
    List<Text> names;
    for (size_t i = 0; i < out.count; ++i) {
      const Text name = out[i].name = value.members[i].key;
      if (!check_.name(name, at)) return false;
      if (name.size > kMaxName) {
        return check_.fail(at, "is %s (expected at most %zu letters)", shown(name).text, kMaxName);
      }
      if (!read_one(value.members[i].value, at.key(name), manifest, out[i])) return false;
      if (!names.push(name)) return no_memory();
    }
    return check_.distinct(names.span(), at);
  }

 private:
  bool no_memory() const { return Pool::no_memory(check_.error(), sizeof(Leaf)); }

  // The layers of the model that adapters may change, by part.
  bool read_modules(const Json& value) {
    const Place at("modules");
    if (!check_.table(value, kMaxParts, at)) return false;
    for (const Member& part : value.members) {
      const Place part_at = at.key(part.key);
      if (!check_.identifier(part.key, at) || !check_.table(part.value, kMaxWeights, part_at)) return false;
      for (const Member& layer : part.value.members) {
        const Place row = part_at.key(layer.key);
        const Json* found;
        auto* shape = pool_.one<Shape>();
        if (!shape) return no_memory();
        if (!check_.text(layer.key, part_at) || !check_.field(layer.value, "shape", found, row) ||
            !check_.shape(*found, Dtype::f32, row.field("shape"), *shape)) {
          return false;
        }
        Text text;
        const Json* original = layer.value.find("original");
        if (original && !check_.text(*original, row.field("original"), text)) return false;
        char whole[3000];
        snprintf(whole, sizeof whole, "%.*s/%.*s.weight", OD_TEXT(part.key), OD_TEXT(layer.key));
        const Text name = pool_.copy(whole);
        if (!name.size || !leaves_.push({name, shape, leaves_.size(), false})) return no_memory();
      }
    }
    return true;
  }

  bool add_leaves(const Made& made) {
    if (made.op == MadeOp::leaf) return leaves_.push({made.weight, &made.shape, leaves_.size(), true});
    for (const Made& part : made.of) {
      if (!add_leaves(part)) return false;
    }
    return true;
  }

  const Leaf* find(Text leaf) const {
    size_t low = 0, high = leaves_.size();
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      if (compare(leaves_[middle].name, leaf) < 0) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < leaves_.size() && leaves_[low].name == leaf ? &leaves_[low] : nullptr;
  }

  bool check_leaves(const WeightEntry& weight, const Made& made) const {
    for (const Made& part : made.of) {
      if (!check_leaves(weight, part)) return false;
    }
    if (made.op != MadeOp::leaf) return true;
    const Shape& known = *find(made.weight)->shape;
    char own[128], first[128];
    if (known == made.shape) return true;
    const Place weights("weights"), at = weights.key(weight.key);
    return check_.fail(at.field("made"), "has %s of %s (expected %s)", shown(made.weight).text,
                       made.shape.shown(own, sizeof own), known.shown(first, sizeof first));
  }

  // Of numbers in few bits their scales, and the other way around.
  bool find_others() {
    List<Few> few;
    for (WeightEntry& weight : weights_) {
      const Made* step = weight.made ? number_step(*weight.made) : nullptr;
      if (step && !few.push({hash(step->of[0], 0), step, &weight})) return no_memory();
    }
    const size_t count = few.size();
    List<u32> order;  // by hash
    if (!order.resize(count)) return no_memory();
    for (u32 i = 0; i < count; ++i) order[i] = i;
    sort(order.span(), [&](u32 a, u32 b) { return few[a].hash != few[b].hash ? few[a].hash < few[b].hash : a < b; });
    for (const Few& one : few) {
      size_t low = 0, high = count;
      while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (few[order[middle]].hash < one.hash) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      for (; low < count && few[order[low]].hash == one.hash && !one.weight->other.size; ++low) {
        const Few& other = few[order[low]];
        if (other.step->op == other_of(one.step->op) && same(other.step->of[0], one.step->of[0])) {
          one.weight->other = other.weight->key;
        }
      }
      if (one.weight->other.size) continue;
      const Place weights("weights"), at = weights.key(one.weight->key);
      return check_.fail(at.field("made"), "has no weight beside it that is made by %s of the same",
                         name_of_other(one.step->op));
    }
    return true;
  }

  bool number(const Json& value, const Place& at, double& out) const {
    out = value.real;
    return (value.number() && fabs(out) <= kFloatMax) ||
           check_.fail(at, "is %s (expected a number within float32)", shown(value).text);
  }

  bool read_one(const Json& value, const Place& at, const Manifest& manifest, AdapterEntry& out) {
    const Json* rows[2];
    const Place changes = at.field("changes");
    if (!check_.record(value, {"scale", "changes"}, rows, at) || !number(*rows[0], at.field("scale"), out.scale) ||
        !check_.table(*rows[1], kMaxWeights, changes) ||
        !pool_.array(out.changes, rows[1]->members.count, check_.error())) {
      return false;
    }
    for (size_t i = 0; i < out.changes.count; ++i) {
      const Member& member = rows[1]->members[i];
      const Place leaf = changes.key(member.key);
      AdapterChange& change = out.changes[i];
      change.leaf = member.key;
      const Leaf* of = find(member.key);
      if (!of || !of->made) return check_.fail(leaf, "is of no weight that the plans read");
      if (!check_.array(member.value, 1, kMaxTerms, leaf) ||
          !pool_.array(change.terms, member.value.list.count, check_.error())) {
        return false;
      }
      for (size_t k = 0; k < change.terms.count; ++k) {
        if (!read_term(member.value.list[k], leaf.item(k), *of->shape, manifest, change.terms[k])) return false;
      }
    }
    sort(out.changes, [](const AdapterChange& a, const AdapterChange& b) { return compare(a.leaf, b.leaf) < 0; });
    return true;
  }

  bool read_term(const Json& value, const Place& at, const Shape& shape, const Manifest& manifest, AdapterTerm& out) {
    const bool whole = value.is(Json::Kind::object) && value.find("full");
    const Json* rows[3] = {};
    out = AdapterTerm();
    if (whole) {
      const Json* found[2];
      if (!check_.record(value, {"full", "scale"}, found, at)) return false;
      rows[0] = found[0];
      rows[2] = found[1];
    } else if (!check_.record(value, {"up", "down", "scale"}, rows, at)) {
      return false;
    }
    if (!read_factor(*rows[0], at.field(whole ? "full" : "up"), manifest, out.up) ||
        (!whole && !read_factor(*rows[1], at.field("down"), manifest, out.down))) {
      return false;
    }
    const Shape& up = manifest.weights[static_cast<size_t>(out.up)].shape;
    const u64 columns = shape.rank ? shape.count() / shape.dims[0] : 1;
    char first[128], second[128], wanted[128];
    bool fits = up == shape;
    first[0] = second[0] = 0;
    if (!whole) {
      const Shape& down = manifest.weights[static_cast<size_t>(out.down)].shape;
      fits = up.rank == 2 && down.rank == 2 && up.dims[1] == down.dims[0] &&
             up.dims[0] == (shape.rank ? shape.dims[0] : 1) && down.dims[1] == columns;
      down.shown(second, sizeof second);
    }
    if (!fits) {
      return check_.fail(at, "does not fit the weight (got %s%s%s, expected a change of %s)",
                         up.shown(first, sizeof first), whole ? "" : " and ", second,
                         shape.shown(wanted, sizeof wanted));
    }
    return number(*rows[2], at.field("scale"), out.scale);
  }

  bool read_factor(const Json& value, const Place& at, const Manifest& manifest, i32& out) {
    const WeightEntry* weight = value.is(Json::Kind::text) ? manifest.weight(value.text) : nullptr;
    if (!weight) {
      List<Text> known;
      for (const WeightEntry& one : manifest.weights) {
        if (!known.push(one.key)) return no_memory();
      }
      size_t ignored;
      return check_.one_of(value, known.span(), at, ignored);
    }
    if ((weight->dtype != Dtype::f16 && weight->dtype != Dtype::f32) || weight->made) {
      return check_.fail(at, "is %s (expected a weight of f16 or f32 that no plan needs)", shown(value).text);
    }
    out = static_cast<i32>(weight - manifest.weights.data);
    return true;
  }

  const Checker& check_;
  Pool& pool_;
  Span<WeightEntry> weights_;
  List<Leaf> leaves_;
};

bool parse_adapters(const Checker& check, const Json& whole, Pool& pool, Manifest& manifest) {
  AdapterReader reader(check, pool, manifest.weights);
  const Json* adapters = whole.find("adapters");
  if (!reader.check_made(whole.find("modules"))) return false;
  sort(manifest.weights, [](const WeightEntry& a, const WeightEntry& b) { return compare(a.key, b.key) < 0; });
  return !adapters || reader.read(*adapters, manifest, manifest.adapters);
}

const AdapterChange* AdapterEntry::change(Text leaf) const {
  return find_sorted(changes, [&](const AdapterChange& one) { return compare(one.leaf, leaf); });
}

}  // namespace od
