/// Of Canny's edges: gradients above the larger one are edges, and those above the smaller one that are joined to them.
public struct Thresholds: Sendable {
    public let first: Double
    public let second: Double

    public init(_ first: Double, _ second: Double) {
        self.first = first
        self.second = second
    }

    static let usual = Thresholds(100, 200)  // of the word `edges`
    var low: Double { min(first, second) }
    var high: Double { max(first, second) }
}

/// Canny's edges as OpenCV finds them, in whole numbers (docs/pipeline.md).
extension Pixels {
    private static let tangent = 13573  // of 22.5 degrees, times 2^15

    /// Edges in white, all else black.
    func edgePicture(_ thresholds: Thresholds) -> Pixels {
        let bytes = edges(thresholds).flatMap { isEdge -> [UInt8] in isEdge ? [255, 255, 255] : [0, 0, 0] }
        return Pixels(width: width, height: height, bytes: bytes)
    }

    /// Whether each pixel is of an edge.
    func edges(_ thresholds: Thresholds = .usual) -> [Bool] {
        let (low, high) = (thresholds.low, thresholds.high)
        let gradients = (0..<height).flatMap { y in (0..<width).map { x in gradient(x, y) } }
        func size(_ x: Int, _ y: Int) -> Int {
            guard 0 <= x, x < width, 0 <= y, y < height else { return 0 }
            let (gx, gy) = gradients[y * width + x]
            return abs(gx) + abs(gy)
        }
        /// Whether a gradient is the largest across the edge: in one of four directions.
        func isPeak(_ x: Int, _ y: Int) -> Bool {
            let own = size(x, y)
            let (gx, gy) = gradients[y * width + x]
            let slope = Pixels.tangent * abs(gx)
            let down = abs(gy) << 15
            if down < slope { return own > size(x - 1, y) && own >= size(x + 1, y) }
            if down > slope + abs(gx) << 16 { return own > size(x, y - 1) && own >= size(x, y + 1) }
            let right = (gx < 0) == (gy < 0) ? 1 : -1
            return own > size(x - right, y - 1) && own > size(x + right, y + 1)
        }
        var isEdge = [Bool](repeating: false, count: width * height)
        var isWeak = isEdge
        var stack: [Int] = []  // edges whose neighbours are still to be looked at
        for y in 0..<height {
            for x in 0..<width where Double(size(x, y)) > low && isPeak(x, y) {
                let at = y * width + x
                if Double(size(x, y)) > high {
                    isEdge[at] = true
                    stack.append(at)
                } else {
                    isWeak[at] = true
                }
            }
        }
        // A weak one that touches an edge is one.
        while let at = stack.popLast() {
            for y in max(at / width - 1, 0)...min(at / width + 1, height - 1) {
                for x in max(at % width - 1, 0)...min(at % width + 1, width - 1) where isWeak[y * width + x] {
                    isWeak[y * width + x] = false
                    isEdge[y * width + x] = true
                    stack.append(y * width + x)
                }
            }
        }
        return isEdge
    }

    /// Sobel's gradient of the channel where |x| + |y| is the largest, the first of equals; beyond the picture its last
    /// pixels are repeated.
    private func gradient(_ x: Int, _ y: Int) -> (Int, Int) {
        let columns = [max(x - 1, 0), x, min(x + 1, width - 1)]
        let rows = [max(y - 1, 0), y, min(y + 1, height - 1)]
        var best = (0, 0)
        for channel in 0..<3 {
            func at(_ row: Int, _ column: Int) -> Int {
                Int(bytes[(rows[row] * width + columns[column]) * 3 + channel])
            }
            let gx = at(0, 2) + 2 * at(1, 2) + at(2, 2) - at(0, 0) - 2 * at(1, 0) - at(2, 0)
            let gy = at(2, 0) + 2 * at(2, 1) + at(2, 2) - at(0, 0) - 2 * at(0, 1) - at(0, 2)
            if channel == 0 || abs(gx) + abs(gy) > abs(best.0) + abs(best.1) { best = (gx, gy) }
        }
        return best
    }
}
