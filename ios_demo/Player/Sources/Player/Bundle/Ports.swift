/// A tensor's type in one pass.
struct PortType: Equatable {
    let dtype: Dtype
    let shape: [Int]
}

/// Types of values that only plans say, as those that were read have them.
struct SeenTypes {
    private var rows: [String: [(sizes: Sizes, type: PortType)]] = [:]

    /// The type of a value where all sizes that two plans have are the same; `tokens` may differ where it is said.
    func find(_ value: String, _ sizes: Sizes, anyTokens: Bool = false) -> PortType? {
        rows[value]?.first { row in
            row.sizes.allSatisfy {
                $0.key == "batch" || (anyTokens && $0.key == "tokens") || sizes[$0.key] == nil
                    || sizes[$0.key] == $0.value
            }
        }?.type
    }

    mutating func add(_ value: String, _ sizes: Sizes, _ type: PortType) {
        if find(value, sizes) == nil { rows[value, default: []].append((sizes, type)) }
    }
}

/// Whether plans take and make what the pipeline passes and expects (docs/pipeline.md, "Ports").
struct PortChecker {
    static let stageSizes: Set<String> = ["batch", "height", "width", "stage", "rows"]
    static let runSizes: Set<String> = ["batch", "height", "width", "frames", "tokens"]
    static let clipVision = 224

    let check: Checker
    let plan: Plan
    let spec: PipelineSpec
    let tokenizers: [String: TokenizerEntry]

    /// Refuse a plan of a component that the pipeline runs with other ports. Adds to `seen`.
    func run(_ seen: inout SeenTypes) throws {
        let names = Set(plan.sizes.keys)
        if names == PortChecker.stageSizes {
            if let role = spec.after.first(where: { $0.component == plan.component }) { try checkStage(role) }
        } else if names.isSubset(of: PortChecker.runSizes) {
            for role in spec.roles where role.component == plan.component { try checkRun(role, &seen) }
        }
    }

    private func checkRun(_ role: Role, _ seen: inout SeenTypes) throws {
        let batch = plan.sizes["batch"] ?? 1
        try sameNames("inputs", plan.inputs, role.feed.map(\.port))
        try sameNames("outputs", plan.outputs, role.keep.map(\.port))
        if let tokens = plan.sizes["tokens"] { try checkTokens(tokens) }
        for (port, feed) in role.feed {
            let operand = plan.input(port)!
            var value = ""
            if case .value(let name, _) = feed { value = name }
            if let tokens = plan.sizes["tokens"], let length = length(of: value) {
                try checkJoined(operand, value, length, tokens, &seen)
                continue
            }
            if let type = fed(feed, seen) {
                let shape = value == "timestep" ? type.shape : inPasses(type.shape, batch)
                try same("inputs", operand, type.dtype, shape)
            } else {
                seen.add(value, plan.sizes, try inOnePass("inputs", operand, batch))
            }
        }
        for (port, value) in role.keep {
            let operand = plan.output(port)!
            if let type = made(value, seen) {
                try same("outputs", operand, type.dtype, inPasses(type.shape, batch))
            } else {
                seen.add(value, plan.sizes, try inOnePass("outputs", operand, batch))
            }
        }
    }

    /// Of a value that is made of a text's tokens: how many an encoder takes at once; nil of any other.
    private func length(of value: String) -> Int? {
        spec.roles.filter { $0.keep.contains { $0.value == value } }.compactMap(\.tokenizer).last
            .map { tokenizers[$0]!.length }
    }

    private func checkTokens(_ tokens: Int) throws {
        let lengths = spec.roles.flatMap(\.keep).compactMap { length(of: $0.value) }
        guard lengths.allSatisfy({ tokens % $0 == 0 }) else {
            let what = "is \(tokens) (expected a multiple of \(lengths.max() ?? 1))"
            throw check.fault(what, Place.top["sizes"].key("tokens"))
        }
    }

    /// Of a plan for texts of several chunks: what is [1, length, width] of one chunk has all tokens of the plan; what
    /// has another shape is that of the first chunk.
    private func checkJoined(
        _ operand: Operand, _ value: String, _ length: Int, _ tokens: Int, _ seen: inout SeenTypes
    ) throws {
        func withRows(_ type: PortType, _ from: Int, _ rows: Int) -> PortType {
            guard type.shape.count == 3, type.shape[0] == 1, type.shape[1] == from else { return type }
            return PortType(dtype: type.dtype, shape: [1, rows, type.shape[2]])
        }
        let batch = plan.sizes["batch"] ?? 1
        guard let type = seen.find(value, plan.sizes, anyTokens: true) else {
            let own = try inOnePass("inputs", operand, batch)
            return seen.add(value, plan.sizes.filter { $0.key != "tokens" }, withRows(own, tokens, length))
        }
        let expected = withRows(type, length, tokens)
        try same("inputs", operand, expected.dtype, inPasses(expected.shape, batch))
    }

    private func inPasses(_ shape: [Int], _ batch: Int) -> [Int] { [batch * shape[0]] + shape.dropFirst() }

    private func inOnePass(_ field: String, _ operand: Operand, _ batch: Int) throws -> PortType {
        guard let first = operand.shape.first, first % batch == 0 else {
            let what = "has \(shown(operand)) (expected \(batch) equal parts, one per pass)"
            throw check.fault(what, Place.top[field])
        }
        return PortType(dtype: operand.dtype, shape: [first / batch] + operand.shape.dropFirst())
    }

    /// What a feed gives in one pass; nil where only another plan says it.
    private func fed(_ feed: Feed, _ seen: SeenTypes) -> PortType? {
        let height = plan.sizes["height"] ?? 0
        let width = plan.sizes["width"] ?? 0
        let scale = spec.latents.scale
        switch feed {
        case .tokens(let name, _): return PortType(dtype: .i32, shape: [1, tokenizers[name]!.length])
        case .numbers(let numbers): return PortType(dtype: .f32, shape: [1, numbers.count])
        case .picture(let name, _):
            switch spec.picture(name)?.prepare {
            case "clip_vision":
                return PortType(dtype: .f32, shape: [1, 3, PortChecker.clipVision, PortChecker.clipVision])
            case "mask": return PortType(dtype: .f32, shape: [1, 1, height, width])
            default: return PortType(dtype: .f32, shape: [1, 3, scale * height, scale * width])
            }
        case .value("timestep", _): return PortType(dtype: .f32, shape: [1])
        case .value(let name, _): return made(name, seen)
        }
    }

    /// The type of a value in one pass, where the pipeline or a plan that was read says it.
    private func made(_ value: String, _ seen: SeenTypes) -> PortType? {
        let base = spec.latents
        let height = plan.sizes["height"] ?? 0
        let width = plan.sizes["width"] ?? 0
        let frames = plan.sizes["frames"] ?? 1
        if value == "latents" || spec.denoise.contains(where: { $0.prediction == value }) {
            return PortType(dtype: .f32, shape: [frames, base.channels, height, width])
        }
        if value == spec.gives {
            return PortType(dtype: .f32, shape: [frames, 3, base.scale * height, base.scale * width])
        }
        for step in spec.before {
            guard case .sample(let moments, _, _, let keep) = step.work else { continue }
            if value == moments { return PortType(dtype: .f32, shape: [1, 2 * base.channels, height, width]) }
            if value == keep { return PortType(dtype: .f32, shape: [1, base.channels, height, width]) }
        }
        return seen.find(value, plan.sizes)
    }

    /// One stage of a decoder in bands by itself.
    private func checkStage(_ role: Role) throws {
        let sizes = plan.sizes
        let base = spec.latents
        guard sizes["batch"] == 1 else {
            let what = "is \(sizes["batch"] ?? 0) (expected 1 for a decoder in bands)"
            throw check.fault(what, Place.top["sizes"].key("batch"))
        }
        let given = plan.inputs.map { plan.operands[$0] }
        if sizes["stage"] == 1 {
            try sameNames("inputs", plan.inputs, role.feed.map(\.port))
            for operand in given {
                try same("inputs", operand, .f32, [1, base.channels, sizes["height"]!, sizes["width"]!])
            }
        } else {
            for operand in given {
                guard let (stem, isMean) = Stage.statistics(operand.name) else {
                    try picture("inputs", operand)
                    continue
                }
                let other = plan.input(Exact(stem.text + (isMean ? ":variance" : ":mean")))
                guard let other, operand.dtype == .f32, operand.shape.count == 1, other.shape == operand.shape else {
                    let what =
                        "has \(JSON.quoted(operand.name.text)) "
                        + "(expected f32 [groups], of a mean and a variance alike)"
                    throw check.fault(what, Place.top["inputs"])
                }
            }
        }
        guard plan.outputs.count == 1 else {
            let what = "is a list of \(plan.outputs.count) (expected one picture of a decoder in bands)"
            throw check.fault(what, Place.top["outputs"])
        }
        let out = plan.operands[plan.outputs[0]]
        try picture("outputs", out)
        if role.keep.contains(where: { $0.port == out.name }) {
            try same("outputs", out, .f32, [1, out.shape[1], base.scale * sizes["width"]!, 3])
        }
    }

    private func picture(_ field: String, _ operand: Operand) throws {
        let isReal = operand.dtype == .f16 || operand.dtype == .f32
        guard isReal, operand.shape.count == 4, operand.shape[0] == 1 else {
            let what = "has \(shown(operand)) (expected a picture f16 or f32 [1, rows, width, channels])"
            throw check.fault(what, Place.top[field])
        }
    }

    private func sameNames(_ field: String, _ indices: [Int], _ wanted: [Exact]) throws {
        let given = indices.map { plan.operands[$0].name }
        guard Set(given) == Set(wanted) else {
            let listed = given.prefix(4).map { JSON.quoted($0.text) }.joined(separator: ", ")
            let expected = wanted.map(\.text).joined(separator: ", ")
            throw check.fault("has \(listed) (expected \(expected))", Place.top[field])
        }
    }

    private func same(_ field: String, _ operand: Operand, _ dtype: Dtype, _ shape: [Int]) throws {
        guard operand.dtype == dtype, operand.shape == shape else {
            throw check.fault("has \(shown(operand)) (expected \(dtype)\(shape))", Place.top[field])
        }
    }

    private func shown(_ operand: Operand) -> String {
        "\(JSON.quoted(operand.name.text)) as \(operand.dtype)\(operand.shape)"
    }
}
