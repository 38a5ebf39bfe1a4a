import Foundation

/// A picture of 8 bits and three channels, rows from the top.
public struct Pixels: Sendable, Equatable {
    public let width: Int
    public let height: Int
    /// RGB, width * height * 3.
    public let bytes: [UInt8]

    /// `bytes` are width * height * 3.
    public init(width: Int, height: Int, bytes: [UInt8]) {
        precondition(width > 0 && height > 0 && bytes.count == width * height * 3)
        self.width = width
        self.height = height
        self.bytes = bytes
    }

    /// Of f32 [1, 3, height, width] in -1..1: clipped, and rounded with halves to even.
    init(_ sample: Tensor) {
        let (height, width) = (sample.shape[2], sample.shape[3])
        let values = sample.floats
        let plane = height * width
        var bytes = [UInt8](repeating: 0, count: plane * 3)
        for channel in 0..<3 {
            for i in 0..<plane {
                let unit = min(max(values[channel * plane + i] * 0.5 + 0.5, 0), 1)
                bytes[i * 3 + channel] = UInt8((unit * 255).rounded(.toNearestOrEven))
            }
        }
        self.init(width: width, height: height, bytes: bytes)
    }

    /// f32 [1, 3, height, width] in -1..1.
    var tensor: Tensor { Tensor(units.map { 2 * $0 - 1 }, [1, 3, height, width]) }

    /// f32 [1, 3, height, width] in 0..1.
    var unitTensor: Tensor { Tensor(units, [1, 3, height, width]) }

    /// [3, height, width] in 0..1.
    private var units: [Float] {
        let plane = width * height
        return (0..<3 * plane).map { Float(bytes[$0 % plane * 3 + $0 / plane]) / 255 }
    }

    /// Whether each pixel is light: of a mask, where it is.
    var isLight: [Bool] {
        (0..<width * height).map { i in
            let grey = 19595 * Int(bytes[3 * i]) + 38470 * Int(bytes[3 * i + 1]) + 7471 * Int(bytes[3 * i + 2])
            return (grey + 32768) >> 16 >= 128
        }
    }

    /// At another size by Lanczos, columns before rows (docs/pipeline.md).
    public func resized(width: Int, height: Int) -> Pixels {
        var result = self
        if width != self.width {
            let weights = Pixels.weights(self.width, width)
            var bytes = [UInt8](repeating: 0, count: width * self.height * 3)
            for y in 0..<self.height {
                for x in 0..<width {
                    let (first, factors) = weights[x]
                    for channel in 0..<3 {
                        let sum = factors.enumerated().reduce(1 << 21) {
                            $0 + $1.element * Int(result.bytes[(y * self.width + first + $1.offset) * 3 + channel])
                        }
                        bytes[(y * width + x) * 3 + channel] = UInt8(min(max(sum >> 22, 0), 255))
                    }
                }
            }
            result = Pixels(width: width, height: self.height, bytes: bytes)
        }
        if height != self.height {
            let weights = Pixels.weights(self.height, height)
            let row = width * 3
            var bytes = [UInt8](repeating: 0, count: row * height)
            for y in 0..<height {
                let (first, factors) = weights[y]
                for x in 0..<row {
                    let sum = factors.enumerated().reduce(1 << 21) {
                        $0 + $1.element * Int(result.bytes[(first + $1.offset) * row + x])
                    }
                    bytes[y * row + x] = UInt8(min(max(sum >> 22, 0), 255))
                }
            }
            result = Pixels(width: width, height: height, bytes: bytes)
        }
        return result
    }

    /// For each of `count` places of the result: the first of `size` places that it reads, and their weights times
    /// 2^22.
    private static func weights(_ size: Int, _ count: Int) -> [(first: Int, factors: [Int])] {
        let step = Double(size) / Double(count)
        let stretch = max(step, 1)
        return (0..<count).map { x in
            let middle = (Double(x) + 0.5) * step
            let first = max(Int(middle - 3 * stretch + 0.5), 0)
            let last = min(Int(middle + 3 * stretch + 0.5), size)
            let factors = (first..<last).map { lanczos((Double($0) - middle + 0.5) / stretch) }
            let sum = factors.reduce(0, +)
            return (first, factors.map { Int(($0 / sum * 0x1p22).rounded(.toNearestOrAwayFromZero)) })
        }
    }

    private static func lanczos(_ t: Double) -> Double {
        guard -3 <= t, t < 3 else { return 0 }
        func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(Double.pi * x) / (Double.pi * x) }
        return sinc(t) * sinc(t / 3)
    }
}
