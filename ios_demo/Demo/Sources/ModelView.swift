import Combine
import DemoStudio
import SwiftUI
import UniformTypeIdentifiers

/// Which model is open, and what device and memory say.
@MainActor
struct ModelView: View {
    @ObservedObject var screen: Screen
    @State private var isPicking = false
    @State private var report: [ReportRow] = []
    private let clock = Timer.publish(every: 2, on: .main, in: .common).autoconnect()

    var body: some View {
        NavigationStack {
            Form {
                Section {
                    LabeledContent("Model", value: screen.state.model?.name ?? "none")
                    if screen.state.work == .opening { ProgressView(screen.state.stage) }
                    Button("Open a file of `ondevice pack`...") { isPicking = true }.disabled(screen.isBusy)
                    Button("Give its memory back") { screen.studio.memoryIsShort() }
                        .disabled(screen.isBusy || screen.state.model == nil)
                } footer: {
                    Text("The file stays where it is, and is read in place.")
                }
                Section("Device and memory") {
                    ForEach(report) { row in LabeledContent(row.name, value: row.value) }
                }
            }
            .navigationTitle("Model")
            .onAppear { refresh() }
            .onReceive(clock) { _ in refresh() }
            .fileImporter(isPresented: $isPicking, allowedContentTypes: [.data]) { result in
                if case .success(let url) = result { screen.open(url) }
            }
        }
    }

    private func refresh() {
        screen.studio.report(screen.request) { rows in
            Task { @MainActor in report = rows }
        }
    }
}
