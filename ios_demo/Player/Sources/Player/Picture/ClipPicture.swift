import Foundation

/// CLIP's picture, of 224 pixels a side: blurred against aliasing, bicubic with corners aligned, then CLIP's mean and
/// deviation (docs/pipeline.md). Double precision, rounded once.
extension Pixels {
    static let clipSide = 224
    private static let means = [0.48145466, 0.4578275, 0.40821073]
    private static let deviations = [0.26862954, 0.26130258, 0.27577711]

    /// f32 [1, 3, 224, 224].
    var clipVision: Tensor {
        let side = Pixels.clipSide
        let across = ClipDirection(width)
        let down = ClipDirection(height)
        var result = [Float](repeating: 0, count: 3 * side * side)
        for channel in 0..<3 {
            var rows: [Double] = []  // [height, 224]
            for y in 0..<height {
                rows += across.resampled(
                    (0..<width).map { 2 * (Double(bytes[(y * width + $0) * 3 + channel]) / 255) - 1 })
            }
            for x in 0..<side {
                let column = down.resampled((0..<height).map { rows[$0 * side + x] })
                for y in 0..<side {
                    let value = ((column[y] + 1) / 2 - Pixels.means[channel]) / Pixels.deviations[channel]
                    result[(channel * side + y) * side + x] = Float(value)
                }
            }
        }
        return Tensor(result, [1, 3, side, side])
    }
}

/// How a direction of so many pixels becomes 224.
private struct ClipDirection {
    private let length: Int
    private let kernel: [Double]

    init(_ length: Int) {
        self.length = length
        let sigma = max((Double(length) / Double(Pixels.clipSide) - 1) / 2, 0.001)
        let size = Int(max(4 * sigma, 3))
        let reach = (size + 1 - size % 2) / 2
        let weights = (-reach...reach).map { exp(-Double($0 * $0) / (2 * sigma * sigma)) }
        let sum = weights.reduce(0, +)
        kernel = weights.map { $0 / sum }
    }

    func resampled(_ line: [Double]) -> [Double] {
        let reach = kernel.count / 2
        let blurred = (0..<length).map { x in
            kernel.enumerated().reduce(0) { $0 + $1.element * line[mirrored(x + $1.offset - reach)] }
        }
        return (0..<Pixels.clipSide).map { o in
            let place = Double(o) * Double(length - 1) / Double(Pixels.clipSide - 1)
            let first = place.rounded(.down) - 1
            return (0..<4).reduce(0) { sum, i in
                let at = first + Double(i)
                return sum + cubic(place - at) * blurred[min(max(Int(at), 0), length - 1)]
            }
        }
    }

    /// A place beyond an edge as that on the other side of its pixel.
    private func mirrored(_ place: Int) -> Int {
        guard length > 1 else { return 0 }
        let period = 2 * length - 2
        let inside = abs(place) % period
        return inside < length ? inside : period - inside
    }

    private func cubic(_ distance: Double) -> Double {
        let t = abs(distance)
        if t <= 1 { return 1.25 * t * t * t - 2.25 * t * t + 1 }
        return t < 2 ? -0.75 * t * t * t + 3.75 * t * t - 6 * t + 3 : 0
    }
}
