/// How the passes of a call become one prediction (docs/pipeline.md, "The loop").
extension Loop {
    /// All passes, or the one that runs alone where there is no guidance.
    func passesInUse(_ numbers: [String: Double]) -> [Pass] {
        guard let guided, (numbers[guided.number] ?? 0) <= guided.above else { return passes }
        return [passes[guided.alone]]
    }

    /// One prediction of the outputs of all passes; of one pass that runs alone, it is the output.
    func combined(_ outputs: [[Float]], _ numbers: [String: Double]) -> [Float] {
        guard outputs.count == passes.count else { return outputs[0] }
        var prediction = outputs[first]
        for term in add {
            let scale = Float(numbers[term.number] ?? 0)
            let plus = outputs[term.plus]
            let minus = outputs[term.minus]
            for i in prediction.indices { prediction[i] = prediction[i] + scale * (plus[i] - minus[i]) }
        }
        let phi = rescale.map { Float(numbers[$0] ?? 0) } ?? 0
        guard phi != 0, let last = add.last else { return prediction }
        let ratio = Float(deviation(outputs[last.plus]) / deviation(prediction))
        return prediction.map { phi * ($0 * ratio) + (1 - phi) * $0 }
    }
}

/// The deviation of all elements, with n - 1 in the denominator.
private func deviation(_ values: [Float]) -> Double {
    let mean = values.reduce(0) { $0 + Double($1) } / Double(values.count)
    let squares = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
    return (squares / Double(values.count - 1)).squareRoot()
}
