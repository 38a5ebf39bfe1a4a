import Foundation

/// Reads a plan's file: every field, and what docs/bundle.md checks "beyond types and limits".
struct PlanReader {
    let check: Checker
    let weights: [Exact: WeightEntry]
    let kernels: Set<String>

    /// - Throws: `PlayerError` of the kind `bundle`, with file and field.
    func read(_ value: JSON) throws -> Plan {
        let top = try check.object(value, .top)
        func required(_ key: String) throws -> JSON { try check.field(top, key, .top) }
        let needs = try check.needs(top["needs"] ?? .list([]), known: Need.all, Place.top["needs"])
        let component = try check.identifier(try required("component"), Place.top["component"])
        let dtype = try check.dtype(try required("dtype"), Place.top["dtype"])
        let arena = try check.integer(try required("arena"), 0, Limit.bytes, Place.top["arena"])
        let sizes = try check.sizes(try required("sizes"), Place.top["sizes"])
        let operands = try operands(try required("operands"), arena, needs)
        let inputs = try ends(try required("inputs"), 0...Limit.arguments, operands, Place.top["inputs"])
        let outputs = try ends(try required("outputs"), 1...Limit.arguments, operands, Place.top["outputs"])
        let programs = try check.list(try required("kernels"), 0...Limit.kernels, Place.top["kernels"]).enumerated()
            .map { try kernel($1, Place.top["kernels"][$0]) }
        let elements = operands.map { $0.bytes / $0.dtype.size }
        let calls = try check.list(try required("dispatches"), 0...Limit.dispatches, Place.top["dispatches"])
            .enumerated().map { try dispatch($1, elements, programs, Place.top["dispatches"][$0]) }
        let plan = Plan(
            component: component, sizes: sizes, dtype: dtype, arena: arena, needs: needs, inputs: inputs,
            outputs: outputs, kernels: programs, operands: operands, dispatches: calls)
        try checkImages(plan)
        try PlanMemory(check: check, plan: plan).run()
        return plan
    }

    private func operands(_ value: JSON, _ arena: Int, _ needs: [String]) throws -> [Operand] {
        var found: [Operand] = []
        var names: [Exact: Int] = [:]
        for (i, row) in try check.list(value, 0...Limit.operands, Place.top["operands"]).enumerated() {
            let at = Place.top["operands"][i]
            let object = try check.object(row, at)
            var isImage = false
            if let kind = object["kind"] {
                isImage = try check.oneOf(kind, ["buffer", "image2d"], at["kind"]) == "image2d"
            }
            guard !isImage || needs.contains("image2d") else {
                throw check.fault("is \"image2d\", which `needs` does not say", at["kind"])
            }
            found.append(isImage ? try image(object, found, at) : try operand(object, arena, at))
        }
        for (i, operand) in found.enumerated() {
            if let other = names.updateValue(names[operand.name] ?? i, forKey: operand.name), other != i {
                let what = "is \(JSON.quoted(operand.name.text)), as in operands[\(other)] (expected another)"
                throw check.fault(what, Place.top["operands"][i]["name"])
            }
        }
        return found
    }

    private func operand(_ row: JSONObject, _ arena: Int, _ at: Place) throws -> Operand {
        let name = try check.text(try check.field(row, "name", at), at["name"])
        let dtype = try check.dtype(try check.field(row, "dtype", at), at["dtype"])
        let shape = try check.shape(try check.field(row, "shape", at), dtype, at["shape"])
        let bytes = try check.integer(try check.field(row, "bytes", at), 1, Limit.bytes, at["bytes"])
        let expected = byteCount(shape, dtype)
        guard bytes == expected else {
            throw check.fault("is \(bytes) (expected \(expected) for \(dtype)\(shape))", at["bytes"])
        }
        let home: Operand.Home
        switch (row["offset"], row["weight"]) {
        case (let value?, nil):
            let offset = try check.integer(value, 0, Limit.bytes, at["offset"])
            guard offset % Limit.align == 0, offset + bytes <= arena else {
                let what = "is \(offset) (expected a multiple of \(Limit.align) with \(bytes) bytes before \(arena))"
                throw check.fault(what, at["offset"])
            }
            home = .arena(offset: offset)
        case (nil, let value?):
            guard case .text(let key) = value, let entry = weights[Exact(key)] else {
                throw check.fault("is \(value.shown) (expected a key of the weights of bundle.json)", at["weight"])
            }
            guard entry.dtype == dtype, entry.shape == shape else {
                let stored = "\(entry.dtype)\(entry.shape)"
                let what = "is \(value.shown), stored as \(stored) (expected \(dtype)\(shape))"
                throw check.fault(what, at["weight"])
            }
            home = .weight(Exact(key))
        default: throw check.fault("has both or none of offset and weight (expected one)", at)
        }
        return Operand(name: Exact(name), dtype: dtype, shape: shape, bytes: bytes, home: home)
    }

    /// An image over an operand before it.
    private func image(_ row: JSONObject, _ before: [Operand], _ at: Place) throws -> Operand {
        for key in ["name", "view", "width", "height"] { _ = try check.field(row, key, at) }
        let name = try check.text(row["name"]!, at["name"])
        let view = try check.integer(row["view"]!, 0, before.count - 1, at["view"])
        let viewed = before[view]
        let isBuffer: Bool
        if case .view = viewed.home { isBuffer = false } else { isBuffer = true }
        guard isBuffer, viewed.dtype == .f16 || viewed.dtype == .f32 else {
            let what = isBuffer ? "of \(viewed.dtype)" : "an image itself"
            throw check.fault("is \(view), which is \(what) (expected a buffer of f16 or f32)", at["view"])
        }
        let width = try check.integer(row["width"]!, 1, Limit.size, at["width"])
        let height = try check.integer(row["height"]!, 1, Limit.size, at["height"])
        let shape = [height, width, 4]
        let bytes = byteCount(shape, viewed.dtype)
        guard bytes <= viewed.bytes else {
            let whole = JSON.quoted(viewed.name.text)
            throw check.fault("takes \(bytes) bytes of \(whole) (expected at most its \(viewed.bytes))", at)
        }
        return Operand(
            name: Exact(name), dtype: viewed.dtype, shape: shape, bytes: bytes,
            home: .view(view, width: width, height: height))
    }

    /// A plan's inputs or outputs: operands of the arena, each once.
    private func ends(_ value: JSON, _ count: ClosedRange<Int>, _ operands: [Operand], _ at: Place) throws -> [Int] {
        let found = try check.integers(value, 0, operands.count - 1, count, at)
        for (i, index) in found.enumerated() {
            switch operands[index].home {
            case .arena: break
            case .weight(let key):
                let named = JSON.quoted(key.text)
                throw check.fault("is \(index) (expected an operand of the arena, not the weight \(named))", at[i])
            case .view:
                let named = JSON.quoted(operands[index].name.text)
                throw check.fault("is \(index) (expected an operand of the arena, not the image \(named))", at[i])
            }
            guard !found[..<i].contains(index) else {
                throw check.fault("is \(index) (expected each operand once)", at[i])
            }
        }
        return found
    }

    private func kernel(_ value: JSON, _ at: Place) throws -> PlanKernel {
        let row = try check.object(value, at)
        let name = try check.oneOf(try check.field(row, "name", at), kernels, at["name"])
        var defines: [(name: String, value: Int)] = []
        for (key, number) in try check.table(try check.field(row, "defines", at), Limit.arguments, at["defines"]).rows {
            let define = try check.identifier(.text(key.text), at["defines"])
            let range = Limit.int32
            let value = try check.integer(number, range.lowerBound, range.upperBound, at["defines"].key(key))
            defines.append((define, value))
        }
        defines.sort { Exact($0.name) < Exact($1.name) }
        let inputs = try check.integer(try check.field(row, "inputs", at), 0, Limit.arguments, at["inputs"])
        let outputs = try check.integer(try check.field(row, "outputs", at), 1, Limit.arguments, at["outputs"])
        let scalars = try check.field(row, "scalars", at)
        guard case .text(let letters) = scalars, letters.utf8.count <= Limit.arguments,
            letters.utf8.allSatisfy({ $0 == UInt8(ascii: "i") || $0 == UInt8(ascii: "f") })
        else { throw check.fault("is \(scalars.shown) (expected one letter a scalar, i or f)", at["scalars"]) }
        return PlanKernel(name: name, defines: defines, inputs: inputs, outputs: outputs, scalars: Array(letters.utf8))
    }

    private func dispatch(
        _ value: JSON, _ elements: [Int], _ programs: [PlanKernel], _ at: Place
    ) throws -> Dispatch {
        let row = try check.object(value, at)
        for key in ["kernel", "operands", "scalars", "grid", "group", "node", "op", "flops", "reads", "writes"] {
            _ = try check.field(row, key, at)
        }
        let kernel = try check.integer(row["kernel"]!, 0, programs.count - 1, at["kernel"])
        let program = programs[kernel]
        let taken = program.inputs + program.outputs
        let operands = try check.integers(row["operands"]!, 0, elements.count - 1, taken...taken, at["operands"])
        let letters = program.scalars
        let scalars = try check.list(row["scalars"]!, letters.count...letters.count, at["scalars"]).enumerated().map {
            try scalar($1, letters[$0], at["scalars"][$0])
        }
        let grid = try check.integers(row["grid"]!, 1, Int(Int32.max), 3...3, at["grid"])
        let group = try check.integers(row["group"]!, 1, Limit.group, 3...3, at["group"])
        let items = group.reduce(1, *)
        guard items <= Limit.group else {
            throw check.fault("has \(items) work-items (expected at most \(Limit.group))", at["group"])
        }
        guard zip(grid, group).allSatisfy({ $0 % $1 == 0 }) else {
            throw check.fault("is \(grid) (expected multiples of the group \(group))", at["grid"])
        }
        // A group's work-items for each element of its operands; sums of 128 operands of 2^40 bytes do not overflow.
        let most = min(Limit.items, items * operands.reduce(0) { $0 + elements[$1] })
        let all = grid.reduce(Decimal(1)) { $0 * Decimal($1) }  // below 2^93, exactly
        guard all <= Decimal(most) else {
            throw check.fault("has \(all) work-items (expected at most \(most))", at["grid"])
        }
        return Dispatch(
            kernel: kernel, operands: operands, outputs: program.outputs, scalars: scalars, grid: grid, group: group,
            node: try check.text(row["node"]!, at["node"]), op: try check.text(row["op"]!, at["op"]),
            flops: try check.integer(row["flops"]!, 0, Limit.count, at["flops"]),
            reads: try check.integer(row["reads"]!, 0, Limit.count, at["reads"]),
            writes: try check.integer(row["writes"]!, 0, Limit.count, at["writes"]))
    }

    private func scalar(_ value: JSON, _ letter: UInt8, _ at: Place) throws -> UInt32 {
        if letter == UInt8(ascii: "i") {
            let range = Limit.int32
            return UInt32(bitPattern: Int32(try check.integer(value, range.lowerBound, range.upperBound, at)))
        }
        let number: Double
        switch value {
        case .integer(let whole): number = Double(whole)
        case .real(let real): number = real
        default: throw check.fault("is \(value.shown) (expected a finite float32)", at)
        }
        guard abs(number) <= Limit.float32 else {
            throw check.fault("is \(value.shown) (expected a finite float32)", at)
        }
        return Float(number).bitPattern
    }

    /// Refuse an image that is written, and a program that takes an image where it took a buffer before.
    private func checkImages(_ plan: Plan) throws {
        func isImage(_ index: Int) -> Bool {
            if case .view = plan.operands[index].home { return true }
            return false
        }
        var taken: [Int: [Bool]] = [:]
        for (t, call) in plan.dispatches.enumerated() {
            let images = call.operands.map(isImage)
            let at = Place.top["dispatches"][t]["operands"]
            if let last = images.lastIndex(of: true), last >= images.count - call.outputs {
                let name = JSON.quoted(plan.operands[call.operands[last]].name.text)
                throw check.fault("writes the image \(name) (expected a buffer)", at[last])
            }
            let known = taken[call.kernel] ?? images
            taken[call.kernel] = known
            if let k = images.indices.first(where: { images[$0] != known[$0] }) {
                let expected = known[k] ? "an image" : "a buffer"
                throw check.fault("is another kind than before (expected \(expected))", at[k])
            }
        }
    }
}
