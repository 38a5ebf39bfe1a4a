import DemoStudio
import Player
import SwiftUI

/// Measures pictures of the size and the steps that are chosen, and exports a result.
@MainActor
struct BenchmarkView: View {
    @ObservedObject var screen: Screen

    var body: some View {
        NavigationStack {
            Form {
                Section {
                    Stepper("\(screen.repeats) pictures", value: $screen.repeats, in: 1...50)
                    if screen.state.work == .measuring {
                        WorkView(state: screen.state)
                        Button("Cancel", role: .cancel) { screen.studio.cancel() }
                    } else {
                        Button("Measure") {
                            screen.studio.measure(
                                screen.request, repeats: screen.repeats, state: { Screen.phoneState() })
                        }
                        .disabled(screen.isBusy || screen.state.model == nil)
                    }
                } footer: {
                    Text("One picture more to warm up, and one whose launches are timed. Leave the app on the screen.")
                }
                if let result = screen.state.result { Section("Result") { rows(result) } }
            }
            .navigationTitle("Benchmark")
        }
    }

    @ViewBuilder private func rows(_ result: BenchmarkResult) -> some View {
        LabeledContent("Picture", value: "\(result.width) x \(result.height), \(result.steps) steps")
        LabeledContent("First", value: seconds(result.firstSeconds))
        LabeledContent("Median", value: seconds(result.medianSeconds))
        LabeledContent("When warm", value: seconds(result.sustainedSeconds))
        LabeledContent("This app at most", value: "\(result.peakBytes / 1_000_000) MB")
        ForEach(Array(result.ops.prefix(8).enumerated()), id: \.offset) { row in
            LabeledContent("\(row.element.op), \(row.element.kernel)", value: seconds(row.element.seconds))
        }
        if let file = screen.state.resultFile { ShareLink("Export the result", item: file) }
    }

    private func seconds(_ value: Double) -> String { String(format: "%.2f s", value) }
}
