/// A dense tensor in the host's memory: row-major, little-endian, as a bundle has it.
public struct Tensor: Sendable {
    public let dtype: Dtype
    public let shape: [Int]
    public let bytes: [UInt8]

    /// `bytes` are as many as the shape has.
    init(_ dtype: Dtype, _ shape: [Int], _ bytes: [UInt8]) {
        precondition(bytes.count == byteCount(shape, dtype))
        self.dtype = dtype
        self.shape = shape
        self.bytes = bytes
    }

    public init(_ floats: [Float], _ shape: [Int]) {
        self.init(.f32, shape, floats.withUnsafeBytes { [UInt8]($0) })
    }

    /// f32, or rounded to f16.
    init(_ floats: [Float], _ shape: [Int], _ dtype: Dtype) {
        if dtype == .f16 {
            self.init(.f16, shape, floats.map(floatToHalf).withUnsafeBytes { [UInt8]($0) })
        } else {
            self.init(floats, shape)
        }
    }

    public init(_ integers: [Int32], _ shape: [Int]) {
        self.init(.i32, shape, integers.withUnsafeBytes { [UInt8]($0) })
    }

    static func zeros(_ dtype: Dtype, _ shape: [Int]) -> Tensor {
        Tensor(dtype, shape, [UInt8](repeating: 0, count: byteCount(shape, dtype)))
    }

    var count: Int { shape.reduce(1, *) }

    /// The elements of an f32 or f16 tensor.
    public var floats: [Float] {
        switch dtype {
        case .f32:
            return [Float](unsafeUninitializedCapacity: count) { floats, count in
                count = self.count
                bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(floats).copyMemory(from: $0) }
            }
        case .f16:
            return bytes.withUnsafeBytes { raw in
                (0..<count).map { halfToFloat(raw.loadUnaligned(fromByteOffset: 2 * $0, as: UInt16.self)) }
            }
        default: preconditionFailure("a tensor of \(dtype) holds no floats")
        }
    }

    /// Several of one dtype and of one shape but for the first dimension, along which they are joined.
    static func joined(_ parts: [Tensor]) -> Tensor {
        guard parts.count > 1 else { return parts[0] }
        let shape = [parts.reduce(0) { $0 + $1.shape[0] }] + parts[0].shape.dropFirst()
        return Tensor(parts[0].dtype, shape, parts.flatMap(\.bytes))
    }

    /// As many equal parts along the first dimension.
    func split(_ parts: Int) -> [Tensor] {
        guard parts > 1 else { return [self] }
        let shape = [shape[0] / parts] + shape.dropFirst()
        let size = bytes.count / parts
        return (0..<parts).map { Tensor(dtype, shape, Array(bytes[$0 * size..<($0 + 1) * size])) }
    }

    /// Some along the first dimension.
    func rows(_ rows: Range<Int>) -> Tensor {
        let size = bytes.count / shape[0]
        return Tensor(
            dtype, [rows.count] + shape.dropFirst(), Array(bytes[rows.lowerBound * size..<rows.upperBound * size]))
    }

    /// How many elements are NaN or infinite.
    var notFinite: Int {
        switch dtype {
        case .f32, .f16: return floats.reduce(0) { $0 + ($1.isFinite ? 0 : 1) }
        default: return 0
        }
    }
}
