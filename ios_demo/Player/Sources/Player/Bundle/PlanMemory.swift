/// Refuses a plan that would read what nothing wrote, write weights, or let two live operands share bytes of the arena.
///
/// An operand lives from its first write (a plan's input: from before the first dispatch) to its last use (a plan's
/// output: to after the last dispatch), both included; to use an image is to use what it views.
struct PlanMemory {
    let check: Checker
    let plan: Plan

    private struct Life {
        var first: Int
        var last: Int
    }

    func run() throws {
        try checkPlaces(try lives())
    }

    /// The operand whose bytes another one stands for.
    private func home(_ index: Int) -> Int {
        if case .view(let viewed, _, _) = plan.operands[index].home { return viewed }
        return index
    }

    private func weight(_ index: Int) -> Exact? {
        if case .weight(let key) = plan.operands[index].home { return key }
        return nil
    }

    private func name(_ index: Int) -> String { JSON.quoted(plan.operands[index].name.text) }

    private func lives() throws -> [Int: Life] {
        var lives: [Int: Life] = [:]
        for index in plan.inputs { lives[index] = Life(first: -1, last: -1) }
        for (t, call) in plan.dispatches.enumerated() {
            let reads = call.operands.count - call.outputs
            let homes = call.operands.map(home)
            for (k, index) in homes.enumerated() {
                let at = Place.top["dispatches"][t]["operands"][k]
                let weight = weight(index)
                if k < reads {
                    if weight != nil { continue }
                    guard lives[index] != nil else {
                        throw check.fault("reads \(name(index)) before anything writes it", at)
                    }
                } else {
                    if let weight {
                        let named = JSON.quoted(weight.text)
                        throw check.fault("writes the weight \(named) (expected an operand of the arena)", at)
                    }
                    guard !homes[..<k].contains(index) else {
                        throw check.fault("writes \(name(index)), which it also uses", at)
                    }
                }
                lives[index, default: Life(first: t, last: t)].last = t
            }
        }
        for (i, index) in plan.outputs.enumerated() {
            guard lives[index] != nil else {
                throw check.fault("is \(name(index)), which nothing writes", Place.top["outputs"][i])
            }
            lives[index]!.last = plan.dispatches.count
        }
        return lives
    }

    /// Operands that are alive together are kept sorted by offset, so that each new one meets its neighbours only.
    private func checkPlaces(_ lives: [Int: Life]) throws {
        func offset(_ index: Int) -> Int {
            if case .arena(let offset) = plan.operands[index].home { return offset }
            return 0
        }
        let born = lives.keys.sorted { (lives[$0]!.first, $0) < (lives[$1]!.first, $1) }
        var dying = lives.keys.sorted { (lives[$0]!.last, $0) > (lives[$1]!.last, $1) }  // the next to go is the last
        var alive: [(start: Int, index: Int)] = []  // sorted, disjoint
        func place(_ start: Int, _ index: Int) -> Int {
            var low = 0
            var high = alive.count
            while low < high {
                let middle = (low + high) / 2
                if (alive[middle].start, alive[middle].index) < (start, index) {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            return low
        }
        for index in born {
            while let dead = dying.last, lives[dead]!.last < lives[index]!.first {
                alive.remove(at: place(offset(dead), dead))
                dying.removeLast()
            }
            let start = offset(index)
            let end = start + plan.operands[index].bytes
            let at = place(start, -1)
            for (otherStart, other) in alive[max(at - 1, 0)..<min(at + 1, alive.count)]
            where start < otherStart + plan.operands[other].bytes && otherStart < end {
                let what = "(\(name(index))) overlaps operands[\(other)] (\(name(other))) while both are needed"
                throw check.fault(what, Place.top["operands"][index])
            }
            alive.insert((start, index), at: place(start, index))
        }
    }
}
