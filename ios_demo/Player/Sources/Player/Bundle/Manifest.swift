/// What an element of a tensor is. `u4x2` is a byte of two whole numbers of 0..15.
public enum Dtype: String, CaseIterable, Sendable {
    case f32, f16, i32, i8, u4x2

    /// Bytes of one element.
    public var size: Int {
        switch self {
        case .f32, .i32: return 4
        case .f16: return 2
        case .i8, .u4x2: return 1
        }
    }
}

/// A plan's or a request's sizes, such as `["batch": 2, "height": 64, "width": 64]`. Names are identifiers.
public typealias Sizes = [String: Int]

extension Sizes {
    private static let usualOrder = ["batch", "height", "width", "stage", "rows"]

    /// "batch=2 height=64 width=64".
    var shown: String {
        let names =
            Sizes.usualOrder.filter { self[$0] != nil } + keys.filter { !Sizes.usualOrder.contains($0) }.sorted()
        return isEmpty ? "no sizes" : names.map { "\($0)=\(self[$0]!)" }.joined(separator: " ")
    }
}

/// Bytes of a dense tensor; `Int.max` where it has more than can be counted.
func byteCount(_ shape: [Int], _ dtype: Dtype) -> Int {
    var count = dtype.size
    for size in shape {
        let (product, overflow) = count.multipliedReportingOverflow(by: size)
        if overflow { return Int.max }
        count = product
    }
    return count
}

public struct FileEntry: Sendable {
    public let bytes: Int
    public let sha256: String
}

/// A tensor in a shard: little-endian, row-major, at a multiple of 512 bytes.
public struct WeightEntry: Sendable {
    public let dtype: Dtype
    public let shape: [Int]
    public let file: String
    public let offset: Int
    public let bytes: Int
    /// How it comes from weights of the checkpoint, of those that adapters may change.
    let made: Made?
}

/// A plan of the bundle, with the memory it needs known before it is read.
public struct PlanEntry: Sendable {
    public let component: String
    public let sizes: Sizes
    public let dtype: Dtype
    public let file: String
    public let arena: Int
    public let weightBytes: Int
    /// The targets that it serves; of a bundle for one kind of devices none is named.
    public let targets: [String]
}

public struct TokenizerEntry: Sendable {
    public let kind: String
    public let length: Int
    public let files: [String]
}

/// A kind of devices that some of a bundle's plans are for.
public struct TargetEntry: Sendable {
    public let name: String
    public let devices: [String]
    public let needs: [String]
    /// By the keys of `TargetEntry.limitNames`: what its plans take of a device at most.
    public let limits: [String: Int]

    static let limitNames = ["work_group", "local_memory", "allocation", "image_width", "image_height"]
}

/// `bundle.json`, checked: what there is, where it is, and how it makes a picture (docs/bundle.md, "Manifest").
public struct Manifest: Sendable {
    public let version: (major: Int, minor: Int)
    public let producer: String
    public let model: JSONObject
    public let components: [String: Dtype]
    public let plans: [PlanEntry]
    public let targets: [TargetEntry]
    public let kernels: [String]
    public let preludes: [String]
    public let tokenizers: [String: TokenizerEntry]
    public let samplers: [String]
    public let pipeline: PipelineSpec?
    public let weights: [Exact: WeightEntry]
    /// What it carries to change its weights with, in the order of the text.
    public let adapters: [AdapterEntry]
    public let files: [String: FileEntry]

    static let file = "bundle.json"
    static let scheduler = "scheduler/scheduler_config.json"

    /// What the model calls itself: the last part of the path or id it was made from.
    public var source: String {
        if case .text(let text)? = model["source"] { return text }
        return ""
    }
}
