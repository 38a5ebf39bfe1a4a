import Foundation

/// Whose numbers a seed gives: those of a CPU, of a CUDA device, or of AUTOMATIC1111's web UI on one (docs/noise.md).
public enum SeedMode: String, Sendable, CaseIterable {
    case torch, cuda, a1111
}

/// What the random numbers of a picture come from. Negative seeds are those of their two's complement.
struct Seeds {
    var seed: UInt64 = 0
    var mode = SeedMode.torch
    /// The initial noise is turned towards that of another seed, by 0 to 1 of the way; 0: it is not.
    var variationSeed: UInt64 = 0
    var variationStrength = 0.0
    /// Draws of the loop come from a stream of their own, of seed + delta; 0: they go on.
    var delta: Int64 = 0
}

/// All the draws of one picture, in their order.
struct Noise {
    private let seeds: Seeds
    private var mersenne: Mersenne
    private var philox: Philox
    private static let alike = 0.9995  // mean cosine of two noises from which on a plain sum of them is taken

    init(_ seeds: Seeds) {
        self.seeds = seeds
        mersenne = Mersenne(seed: seeds.seed)
        philox = Philox(seed: seeds.seed)
    }

    /// The next `count` normal numbers.
    mutating func draw(_ count: Int) -> [Float] {
        seeds.mode == .torch ? mersenne.draw(count) : philox.draw(count)
    }

    /// The next draw, of planes of `height` rows of `width` numbers, turned towards the variation's first.
    ///
    /// - Throws: `PlayerError` of the kind `usage` for planes of one row, where there is a variation.
    mutating func initial(_ count: Int, height: Int, width: Int) throws -> [Float] {
        let low = draw(count)
        guard seeds.variationStrength != 0 else { return low }
        guard height > 1 else {
            throw PlayerError(
                .usage, "a picture of one row of latents has no variations (got \(height), expected 2 or more).",
                at: "variation_strength", fix: "use 0, or a higher picture")
        }
        var other = seeds
        other.seed = seeds.variationSeed
        var variation = Noise(other)
        return Noise.between(low, variation.draw(count), seeds.variationStrength, height: height, width: width)
    }

    /// What is drawn from here on is the loop's.
    mutating func enterLoop() {
        guard seeds.delta != 0 else { return }
        let seed = seeds.seed &+ UInt64(bitPattern: seeds.delta)
        mersenne = Mersenne(seed: seed)
        philox = Philox(seed: seed)
    }

    /// Whether an encoder's latents are drawn, and not their mean.
    var drawsEncodings: Bool { seeds.mode != .a1111 }

    /// From `low` towards `high` on a sphere, each column of a plane by itself. Both oddities are the web UI's: that
    /// vectors are columns, and that noises that are almost alike are summed with their weights exchanged.
    static func between(
        _ low: [Float], _ high: [Float], _ strength: Double, height: Int, width: Int
    ) -> [Float] {
        let columns = (0..<low.count / height).map { $0 / width * width * height + $0 % width }
        let cosines = columns.map { first -> Double in
            let places = (0..<height).map { first + $0 * width }
            let lows = places.reduce(0) { $0 + Double(low[$1]) * Double(low[$1]) }.squareRoot()
            let highs = places.reduce(0) { $0 + Double(high[$1]) * Double(high[$1]) }.squareRoot()
            return places.reduce(0) { $0 + Double(low[$1]) / lows * (Double(high[$1]) / highs) }
        }
        let areAlike = cosines.reduce(0, +) / Double(cosines.count) > alike
        var result = low
        for (first, cosine) in zip(columns, cosines) {
            var (ofLow, ofHigh, whole) = (strength, 1 - strength, 1.0)
            if !areAlike {
                let angle = acos(cosine)
                (ofLow, ofHigh, whole) = (sin((1 - strength) * angle), sin(strength * angle), sin(angle))
            }
            for place in (0..<height).map({ first + $0 * width }) {
                result[place] = Float((ofLow * Double(low[place]) + ofHigh * Double(high[place])) / whole)
            }
        }
        return result
    }
}

/// Philox4x32-10, as a CUDA device with a thread for each number of a draw has it.
struct Philox {
    private let seed: UInt64
    private var draws: UInt64 = 0

    init(seed: UInt64) { self.seed = seed }

    mutating func draw(_ count: Int) -> [Float] {
        let unit = 0x1p-32
        let turn = Double(Float(0x1.921fb6p-30))  // 2 pi / 2^32 in float32
        defer { draws += 1 }
        return (0..<UInt64(count)).map { i in
            let (a, b) = words(i)
            let radius = (-2 * log(Double(a) * unit + unit / 2)).squareRoot()
            return Float(radius * sin(Double(b) * turn + turn / 2))
        }
    }

    private func words(_ i: UInt64) -> (UInt32, UInt32) {
        func low(_ word: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: word) }
        func high(_ word: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: word >> 32) }
        var counter = (low(draws), high(draws), low(i), high(i))
        var key = (low(seed), high(seed))
        for _ in 0..<10 {
            let p = UInt64(counter.0) * 0xD251_1F53
            let q = UInt64(counter.2) * 0xCD9E_8D57
            counter = (high(q) ^ counter.1 ^ key.0, low(q), high(p) ^ counter.3 ^ key.1, low(p))
            key = (key.0 &+ 0x9E37_79B9, key.1 &+ 0xBB67_AE85)
        }
        return (counter.0, counter.1)
    }
}
