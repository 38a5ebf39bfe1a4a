/// One plan of a decoder in bands (docs/bundle.md): pictures are [1, rows, width, channels], statistics [groups].
struct Stage {
    let plan: Plan
    /// The inputs that are cut into bands.
    let pictures: [Operand]
    /// Groups of each picture whose statistics it needs.
    let statistics: [Exact: Int]
    let output: Operand

    static let leastRows = 3  // of a band that is not the whole picture: an edge row is dropped at both ends

    init(_ plan: Plan) {
        self.plan = plan
        let inputs = plan.inputs.map { plan.operands[$0] }
        pictures = inputs.filter { Stage.statistics($0.name) == nil }
        var statistics: [Exact: Int] = [:]
        for operand in inputs {
            if let (picture, isMean) = Stage.statistics(operand.name), isMean {
                statistics[picture] = operand.shape.first ?? 0
            }
        }
        self.statistics = statistics
        output = plan.operands[plan.outputs[0]]
    }

    /// The picture of a "NAME:mean" or "NAME:variance"; nil of a picture itself.
    static func statistics(_ name: Exact) -> (picture: Exact, isMean: Bool)? {
        for (ending, isMean) in [(":mean", true), (":variance", false)] where name.text.hasSuffix(ending) {
            return (Exact(String(name.text.unicodeScalars.dropLast(ending.count))), isMean)
        }
        return nil
    }

    func reads(_ picture: Exact) -> Bool { pictures.contains { $0.name == picture } }

    var place: String { "\(plan.component) \(plan.sizes.shown)" }

    private func fault(_ what: String) -> PlayerError {
        PlayerError(.bundle, what + ".", at: place, fix: "convert the checkpoint again")
    }

    /// Groups in which stages ask for the statistics of a picture; 0 where none does.
    static func groups(of picture: Exact, in stages: some Sequence<Stage>) -> Int {
        stages.lazy.compactMap { $0.statistics[picture] }.first ?? 0
    }

    /// Refuse stages, in order, that do not fit each other or the decoder; each has passed `PortChecker`.
    static func check(_ stages: [Stage], _ spec: PipelineSpec) throws {
        let whole = try wholePictures(stages)
        var types: [Exact: Dtype] = [:]
        for stage in stages {
            for operand in stage.pictures {
                if let type = types[operand.name], type != operand.dtype {
                    throw stage.fault("\(operand.name) is \(operand.dtype), and was made as \(type)")
                }
            }
            types[stage.output.name] = stage.output.dtype
        }
        guard let first = stages.first, let last = stages.last else { return }
        let height = spec.latents.scale * (first.plan.sizes["height"] ?? 0)
        let width = spec.latents.scale * (first.plan.sizes["width"] ?? 0)
        for stage in stages {
            let shape = whole[stage.output.name]!
            guard shape[1] <= height, shape[2] <= width else {
                let what = "it makes a picture of \(shape[2])x\(shape[1]) (expected at most \(width)x\(height))"
                throw stage.fault(what)
            }
        }
        let result = spec.after.first { $0.component == first.plan.component }?.keep.map(\.port) ?? []
        let made = whole[last.output.name]!
        guard result.contains(last.output.name), made == [1, height, width, 3] else {
            let expected = "\(result.map(\.text).joined(separator: ", ")) \([1, height, width, 3])"
            throw last.fault("the last stage makes \(last.output.name) \(made) (expected \(expected))")
        }
    }

    /// Shapes of the whole pictures that stages make, by name.
    private static func wholePictures(_ stages: [Stage]) throws -> [Exact: [Int]] {
        var whole: [Exact: [Int]] = [:]
        for (number, stage) in stages.enumerated() {
            if number == 0 {
                whole[stage.output.name] = stage.output.shape
                continue
            }
            guard !stage.pictures.isEmpty else { throw stage.fault("it reads no picture of an earlier stage") }
            for picture in stage.pictures {
                guard let shape = whole[picture.name], shape[2...] == picture.shape[2...] else {
                    throw stage.fault("\(picture.name) is not what an earlier stage made")
                }
            }
            for (name, groups) in stage.statistics {
                guard let shape = whole[name], groups > 0, shape[3] % groups == 0,
                    groups == Stage.groups(of: name, in: stages)
                else { throw stage.fault("the statistics of \(name) are not of a picture's groups of channels") }
            }
            let least = stage.pictures.min { whole[$0.name]![1] < whole[$1.name]![1] }!
            let height = whole[least.name]![1]
            let high = least.shape[1]
            let made = stage.output.shape
            let areAlike = stage.pictures.allSatisfy { whole[$0.name]![1] * high == height * $0.shape[1] }
            guard high <= height, high >= min(height, leastRows), made[1] % high == 0, areAlike else {
                throw stage.fault("its bands do not fit pictures of \(height) rows")
            }
            guard whole[stage.output.name] == nil else {
                throw stage.fault("\(stage.output.name) was made by an earlier stage")
            }
            // Bounded, so that no product of a later stage is too large to count.
            let rows = height * (made[1] / high)
            guard rows <= Limit.size * 64 else { throw stage.fault("it makes a picture of \(rows) rows") }
            whole[stage.output.name] = [1, rows] + made[2...]
        }
        return whole
    }
}
