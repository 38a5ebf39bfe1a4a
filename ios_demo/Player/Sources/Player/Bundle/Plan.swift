/// A tensor of a plan, or an image over one.
public struct Operand: Sendable {
    enum Home: Sendable {
        case arena(offset: Int)
        case weight(Exact)
        /// An image: the operand whose bytes it reads, `width` texels of four elements by `height` rows.
        case view(Int, width: Int, height: Int)
    }

    public let name: Exact
    public let dtype: Dtype
    public let shape: [Int]
    public let bytes: Int
    let home: Home
}

/// A program to build. `scalars` has one letter for each scalar argument: `i` an int32, `f` a float32.
struct PlanKernel: Sendable {
    let name: String
    let defines: [(name: String, value: Int)]  // sorted by name
    let inputs: Int
    let outputs: Int
    let scalars: [UInt8]
}

/// A launch. Scalars are the 4 bytes that are passed.
struct Dispatch: Sendable {
    let kernel: Int
    let operands: [Int]  // the kernel's inputs, then its outputs
    let outputs: Int
    let scalars: [UInt32]
    let grid: [Int]
    let group: [Int]
    let node: String
    let op: String
    let flops: Int
    let reads: Int
    let writes: Int
}

/// A component at fixed sizes (docs/bundle.md, "Plans"). Checked.
public struct Plan: Sendable {
    public let component: String
    public let sizes: Sizes
    public let dtype: Dtype
    public let arena: Int
    let needs: [String]
    let inputs: [Int]
    let outputs: [Int]
    let kernels: [PlanKernel]
    let operands: [Operand]
    let dispatches: [Dispatch]

    func input(_ name: Exact) -> Operand? { inputs.lazy.map { operands[$0] }.first { $0.name == name } }
    func output(_ name: Exact) -> Operand? { outputs.lazy.map { operands[$0] }.first { $0.name == name } }

    /// Bytes of the weights that it reads, each counted once.
    var weightBytes: Int {
        var seen: Set<Exact> = []
        return operands.reduce(0) { total, operand in
            if case .weight(let key) = operand.home, seen.insert(key).inserted { return total + operand.bytes }
            return total
        }
    }
}
