/// How a stored weight comes from weights of the checkpoint (docs/adapters.md, "In a bundle"): one of these, or what an
/// op makes of others. Values are float32 where nothing else is said.
struct Made: Hashable, Sendable {
    enum Op: Hashable, Sendable {
        /// A weight of the checkpoint: its part's name and its own, "unet/conv_in.weight".
        case weight(Exact)
        /// Axis i is axis `[i]` of what it is of.
        case transpose([Int])
        case reshape, winograd, pairs
        case scale(Double)
        case concat(axis: Int)
        case pad
        case panels(width: Int, halves: Int, fill: Int)
        case int8, int8Scales, int4, int4Scales
    }

    let op: Op
    /// Of what it makes.
    let shape: [Int]
    let of: [Made]

    static let mostDepth = 12, mostLeaves = 4_096
    /// Rows that share a scale of 4 bits, and the number that means 0.
    static let group = 32, zero = 8
    static let ops = [
        "concat", "int4", "int4_scales", "int8", "int8_scales", "pad", "pairs", "panels", "reshape", "scale",
        "transpose", "winograd",
    ]

    var isNumbers: Bool { op == .int8 || op == .int4 }
    var isScales: Bool { op == .int8Scales || op == .int4Scales }

    /// The step that makes numbers in few bits, or their scales; nil where values are stored as they are. What it is
    /// made of, sums go through; what is done after it can be undone.
    var numberStep: Made? {
        if isNumbers || isScales { return self }
        switch op {
        case .pad, .panels, .pairs: return of[0].numberStep
        default: return nil
        }
    }

    /// Every weight of the checkpoint, as often as it is there.
    func eachLeaf(_ visit: (Exact, [Int]) throws -> Void) rethrows {
        if case .weight(let name) = op { try visit(name, shape) }
        for part in of { try part.eachLeaf(visit) }
    }

    /// Its ops and those of what it is made of, down to numbers in few bits or their scales, which are not in it.
    fileprivate func opsAfterNumbers() -> [Op] {
        isNumbers || isScales ? [] : [op] + of.flatMap { $0.opsAfterNumbers() }
    }

    fileprivate func allOps() -> [Op] { [op] + of.flatMap { $0.allOps() } }
}

/// Reads the `made` of one weight.
struct MadeReader {
    private let check: Checker
    private var leaves = 0

    init(check: Checker) { self.check = check }

    /// - Throws: `PlayerError` of the kind `bundle`: it is none, too large, or not of what is stored.
    mutating func read(_ value: JSON, _ dtype: Dtype, _ shape: [Int], _ at: Place) throws -> Made {
        let made = try step(value, 1, at)
        try checkStored(made, dtype, shape, at)
        return made
    }

    private mutating func step(_ value: JSON, _ depth: Int, _ at: Place) throws -> Made {
        let object = try check.object(value, at)
        guard depth <= Made.mostDepth else {
            throw check.fault("is nested too deeply (expected at most \(Made.mostDepth) steps)", at)
        }
        if object["weight"] != nil {
            leaves += 1
            guard leaves <= Made.mostLeaves else {
                throw check.fault("has too many weights (expected at most \(Made.mostLeaves))", at)
            }
            let shape = try check.field(object, "shape", at)
            let name = try check.text(object["weight"]!, at["weight"])
            return Made(op: .weight(Exact(name)), shape: try check.shape(shape, .f32, at["shape"]), of: [])
        }
        let word = try check.field(object, "op", at)
        let parts = try check.field(object, "of", at)
        let name = try check.oneOf(word, Made.ops, at["op"])
        let rows = try check.list(parts, 1...Made.mostLeaves, at["of"])
        let (op, asked) = try told(name, object, at)
        let of = try rows.enumerated().map { try step($1, depth + 1, at["of"][$0]) }
        if name != "concat", of.count != 1 {
            throw check.fault("cannot be had: \(name) is of one (got \(of.count))", at)
        }
        let shape = try self.shape(op, of, asked, at)
        guard byteCount(shape, .f32) <= Limit.bytes else { throw check.fault("is too large", at) }
        return Made(op: op, shape: shape, of: of)
    }

    /// What an op is told, and the numbers that it says of its shape: a whole one, or the last axis's.
    private func told(_ name: String, _ object: JSONObject, _ at: Place) throws -> (Made.Op, asked: [Int]) {
        func whole(_ key: String, _ low: Int, _ high: Int) throws -> Int {
            try check.integer(try check.field(object, key, at), low, high, at[key])
        }
        func list(_ key: String, _ low: Int, _ high: Int) throws -> [Int] {
            try check.integers(try check.field(object, key, at), low, high, 0...Limit.rank, at[key])
        }
        let most = Int(Int32.max)
        switch name {
        case "transpose": return (.transpose(try list("perm", 0, Limit.rank - 1)), [])
        case "reshape": return (.reshape, try list("shape", 1, most))
        case "scale": return (.scale(try check.number(try check.field(object, "by", at), at["by"])), [])
        case "concat": return (.concat(axis: try whole("axis", 0, Limit.rank - 1)), [])
        case "pad": return (.pad, [try whole("columns", 1, most)])
        case "panels":
            let (width, halves) = (try whole("width", 1, Limit.size), try whole("halves", 1, 2))
            let fill = try object["fill"].map { try check.integer($0, 0, 15, at["fill"]) } ?? 0
            return (.panels(width: width, halves: halves, fill: fill), [])
        case "winograd": return (.winograd, [])
        case "pairs": return (.pairs, [])
        case "int8": return (.int8, [])
        case "int8_scales": return (.int8Scales, [])
        case "int4": return (.int4, [])
        default: return (.int4Scales, [])
        }
    }

    private func shape(_ op: Made.Op, _ parts: [Made], _ asked: [Int], _ at: Place) throws -> [Int] {
        func fit(_ fits: Bool, _ what: @autoclosure () -> String) throws {
            guard fits else { throw check.fault("cannot be had: \(what())", at) }
        }
        let of = parts[0].shape
        let last = of.last ?? 0
        switch op {
        case .weight, .scale: return of
        case .transpose(let perm):
            try fit(perm.sorted() == Array(of.indices), "\(perm) is no order of the axes of \(of)")
            return perm.map { of[$0] }
        case .reshape:
            try fit(byteCount(of, .i8) == byteCount(asked, .i8), "\(of) cannot become \(asked)")
            return asked
        case .concat(let axis):
            let shapes = parts.map(\.shape)
            let listed = "\(Array(shapes.prefix(3)))"
            try fit(axis < of.count && shapes.allSatisfy { $0.count == of.count }, "axis \(axis) of \(listed)")
            var whole = of
            whole[axis] = shapes.reduce(0) { $0 + $1[axis] }
            let isAlike = shapes.allSatisfy { $0[..<axis] == of[..<axis] && $0[(axis + 1)...] == of[(axis + 1)...] }
            try fit(isAlike, "\(listed) do not fit each other along axis \(axis)")
            return whole
        case .pad:
            try fit(!of.isEmpty && last <= asked[0], "\(of) has more columns than \(asked[0])")
            return of.dropLast() + asked
        case .panels(let width, let halves, _):
            let fits = of.count >= 2 && width % halves == 0 && last % halves == 0
            try fit(fits, "\(of) in panels of \(width)")
            return of.dropLast(2) + [(last / halves - 1) / (width / halves) + 1, of[of.count - 2], width]
        case .pairs:
            try fit(!of.isEmpty && last % 2 == 0, "\(of) has no pairs")
            return of.dropLast() + [last / 2]
        case .winograd:
            try fit(of.count == 4 && of[..<2] == [3, 3], "\(of) are not the taps of 3x3 kernels")
            return [36] + of[2...]
        case .int8, .int4, .int8Scales, .int4Scales:
            try fit(of.count == 2, "\(of) is no matrix")
            if op == .int8Scales { return [1, of[1]] }
            return op == .int4Scales ? [(of[0] - 1) / Made.group + 1, of[1]] : of
        }
    }

    /// Refuse what is not of what is stored, and numbers in few bits elsewhere than where they can be had back.
    private func checkStored(_ made: Made, _ dtype: Dtype, _ shape: [Int], _ at: Place) throws {
        guard made.shape == shape else {
            throw check.fault("is of \(made.shape) (expected \(shape), as it is stored)", at)
        }
        let step = made.numberStep
        var makes: [Dtype] = [.f16, .f32]
        switch step?.op {
        case .int8?: makes = [.i8]
        case .int8Scales?: makes = [.f32]
        case .int4?: makes = [.u4x2]
        case .int4Scales?: makes = [.f16]
        default: break
        }
        guard makes.contains(dtype) else {
            let words = makes.map(\.rawValue).joined(separator: " or ")
            throw check.fault("makes \(words) (expected \(dtype), as it is stored)", at)
        }
        let pairs = step == nil ? 0 : made.opsAfterNumbers().filter { $0 == .pairs }.count
        guard pairs == (dtype == .u4x2 ? 1 : 0) else {
            throw check.fault("puts two numbers in a byte (expected of 4 bits, once)", at)
        }
        let few: Set<Made.Op> = [.int8, .int4, .int8Scales, .int4Scales, .pairs]
        guard few.isDisjoint(with: (step?.of[0] ?? made).allOps()) else {
            let expected = "expected one such step, before panels and pairs alone"
            throw check.fault("has numbers in few bits within (\(expected))", at)
        }
    }
}
