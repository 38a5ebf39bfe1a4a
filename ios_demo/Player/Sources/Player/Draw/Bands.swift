/// Decodes in bands (docs/bundle.md, "A decoder in bands"): a decoder's stages over pictures in the host's memory.
struct BandDecoder {
    let session: Session
    let stages: [Stage]  // checked

    /// [1, rows, width, channels], as a stage makes it.
    private struct Picture {
        var rows: Int
        let rowBytes: Int
        var bytes: [UInt8]
    }

    /// Latents f32 [1, c, h, w] -> f32 [1, 3, H, W].
    func decode(_ latents: Tensor) throws -> Tensor {
        var pictures: [Exact: Picture] = [:]
        var statistics: [Exact: Tensor] = [:]
        for (number, stage) in stages.enumerated() {
            let later = stages[(number + 1)...]
            let groups = Stage.groups(of: stage.output.name, in: later)
            let isKept = later.isEmpty || later.contains { $0.reads(stage.output.name) }
            var sums = groups > 0 ? Sums(groups: groups, channels: stage.output.shape[3]) : nil
            let made: Picture?
            if number == 0 {
                let result = try run(stage, [stage.plan.operands[stage.plan.inputs[0]].name: latents])
                sums?.add(result)
                let rows = result.shape[1]
                made = isKept ? Picture(rows: rows, rowBytes: result.bytes.count / rows, bytes: result.bytes) : nil
            } else {
                made = try runBands(stage, pictures, statistics, isKept, &sums)
            }
            pictures = pictures.filter { name, _ in later.contains { $0.reads(name) } }
            if let made { pictures[stage.output.name] = made }
            if let sums { statistics.merge(sums.result(stage.output.name)) { $1 } }
        }
        let last = stages[stages.count - 1].output
        return channelsFirst(pictures[last.name]!, width: last.shape[2])
    }

    private func run(_ stage: Stage, _ inputs: [Exact: Tensor]) throws -> Tensor {
        try session.run(stage.plan.component, stage.plan.sizes, inputs)[stage.output.name]!
    }

    /// All bands of one stage: the picture, if it is kept.
    private func runBands(
        _ stage: Stage, _ pictures: [Exact: Picture], _ statistics: [Exact: Tensor], _ isKept: Bool, _ sums: inout Sums?
    ) throws -> Picture? {
        let least = stage.pictures.min { pictures[$0.name]!.rows < pictures[$1.name]!.rows }!
        let height = pictures[least.name]!.rows
        let high = least.shape[1]
        let scale = stage.output.shape[1] / high
        let rowBytes = stage.output.bytes / stage.output.shape[1]
        var made = isKept ? Picture(rows: height * scale, rowBytes: rowBytes, bytes: []) : nil
        made?.bytes.reserveCapacity(height * scale * rowBytes)
        for band in BandDecoder.bands(height, high) {
            var inputs: [Exact: Tensor] = [:]
            for operand in stage.plan.inputs.map({ stage.plan.operands[$0] }) {
                guard let picture = pictures[operand.name], stage.reads(operand.name) else {
                    inputs[operand.name] = statistics[operand.name]
                    continue
                }
                let start = band.start * (operand.shape[1] / high)
                let from = start * picture.rowBytes
                let bytes = Array(picture.bytes[from..<from + operand.shape[1] * picture.rowBytes])
                inputs[operand.name] = Tensor(operand.dtype, operand.shape, bytes)
            }
            let result = try run(stage, inputs)
            let from = (band.begin - band.start) * scale
            let to = (band.end - band.start) * scale
            let rows = Tensor(
                result.dtype, [1, to - from] + result.shape[2...],
                Array(result.bytes[from * rowBytes..<to * rowBytes]))
            sums?.add(rows)
            made?.bytes += rows.bytes  // bands follow each other without a gap
        }
        return made
    }

    /// First row, first row that is kept and end of those, of bands of `high` rows: a row at each inner
    /// edge is not kept.
    static func bands(_ height: Int, _ high: Int) -> [(start: Int, begin: Int, end: Int)] {
        var found: [(start: Int, begin: Int, end: Int)] = []
        var end = 0
        while end < height {
            let start = max(0, min(end - 1, height - high))
            let begin = end
            end = start + high >= height ? height : start + high - 1
            found.append((start, begin, end))
        }
        return found
    }

    /// f32 [1, rows, width, 3] -> f32 [1, 3, rows, width].
    private func channelsFirst(_ picture: Picture, width: Int) -> Tensor {
        let values = Tensor(.f32, [1, picture.rows, width, 3], picture.bytes).floats
        let plane = picture.rows * width
        var result = [Float](repeating: 0, count: values.count)
        for i in 0..<plane {
            for channel in 0..<3 { result[channel * plane + i] = values[i * 3 + channel] }
        }
        return Tensor(result, [1, 3, picture.rows, width])
    }

    /// Mean and variance of a picture's groups of channels, band by band: sums around each channel's first value.
    private struct Sums {
        let groups: Int
        let channels: Int
        var origin: [Double] = []
        var sum: [Double]
        var square: [Double]
        var count = 0

        init(groups: Int, channels: Int) {
            self.groups = groups
            self.channels = channels
            sum = [Double](repeating: 0, count: channels)
            square = sum
        }

        mutating func add(_ rows: Tensor) {
            let values = rows.floats
            if origin.isEmpty { origin = values.prefix(channels).map(Double.init) }
            for start in stride(from: 0, to: values.count, by: channels) {
                for channel in 0..<channels {
                    let off = Double(values[start + channel]) - origin[channel]
                    sum[channel] += off
                    square[channel] += off * off
                }
            }
            count += values.count / channels
        }

        /// NAME:mean and NAME:variance, f32 [groups].
        func result(_ name: Exact) -> [Exact: Tensor] {
            let means = sum.map { $0 / Double(count) }
            let variances = zip(square, means).map { $0 / Double(count) - $1 * $1 }
            let whole = zip(means, origin).map(+)
            let size = channels / groups
            var mean: [Float] = []
            var variance: [Float] = []
            for start in stride(from: 0, to: channels, by: size) {
                let middle = whole[start..<start + size].reduce(0, +) / Double(size)
                let within = variances[start..<start + size].reduce(0, +) / Double(size)
                let between =
                    whole[start..<start + size].reduce(0) { $0 + ($1 - middle) * ($1 - middle) } / Double(size)
                mean.append(Float(middle))
                variance.append(Float(within + between))
            }
            return [
                Exact("\(name):mean"): Tensor(mean, [groups]), Exact("\(name):variance"): Tensor(variance, [groups]),
            ]
        }
    }
}
