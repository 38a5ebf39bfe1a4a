/// One run of a loop's roles in a call: a pass, for a part of its text.
struct Spoken {
    let pass: Int  // of those in use
    let part: Int?
    let weight: Float
    let zeros: [String]
}

/// How the passes of a call become one prediction (docs/pipeline.md, "The loop").
extension Loop {
    /// All passes, or the one that runs alone where there is no guidance.
    func passesInUse(_ numbers: Numbers) -> [Pass] {
        guard let guided, numbers.largest(guided.number) <= guided.above else { return passes }
        return [passes[guided.alone]]
    }

    /// Each pass in use as one per part of its text, in order.
    func spoken(_ numbers: Numbers, _ texts: Texts) -> [Spoken] {
        passesInUse(numbers).enumerated().flatMap { number, pass -> [Spoken] in
            guard let text = pass.text else { return [Spoken(pass: number, part: nil, weight: 1, zeros: pass.zeros)] }
            return texts.numbers(of: text).map {
                Spoken(pass: number, part: $0, weight: texts.parts[$0].weight, zeros: pass.zeros)
            }
        }
    }

    /// One prediction of the outputs of all runs; of one pass that runs alone, it is the output.
    func combined(_ outputs: [[Float]], _ runs: [Spoken], _ numbers: Numbers) -> [Float] {
        guard Set(runs.map(\.pass)).count == passes.count else { return outputs[0] }
        func output(_ pass: Int) -> [Float] { outputs[runs.firstIndex { $0.pass == pass }!] }
        /// Adds what each part of a pass says beside another pass, times a number (nil: 1).
        func add(_ total: inout [Float], _ number: String?, _ plus: Int, _ minus: Int) {
            let less = output(minus)
            let frame = total.count / numbers.frames
            for (run, more) in zip(runs, outputs) where run.pass == plus {
                for k in 0..<numbers.frames {
                    let factor = (number.map { numbers.inFrame($0, k) } ?? 1) * run.weight
                    for i in k * frame..<(k + 1) * frame { total[i] = total[i] + factor * (more[i] - less[i]) }
                }
            }
        }
        var prediction = output(first)
        for term in self.add { add(&prediction, term.number, term.plus, term.minus) }
        let phi = rescale.map { Float(numbers[$0]) } ?? 0
        guard phi != 0, let last = self.add.last else { return prediction }
        var text = output(last.plus)
        if runs.filter({ $0.pass == last.plus }).count > 1 {  // what several parts say together
            text = output(last.minus)
            add(&text, nil, last.plus, last.minus)
        }
        let ratio = Float(deviation(text) / deviation(prediction))
        return prediction.map { phi * ($0 * ratio) + (1 - phi) * $0 }
    }
}

/// The deviation of all elements, with n - 1 in the denominator.
private func deviation(_ values: [Float]) -> Double {
    let mean = values.reduce(0) { $0 + Double($1) } / Double(values.count)
    let squares = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
    return (squares / Double(values.count - 1)).squareRoot()
}
