import SwiftUI

@main
@MainActor
struct DemoApp: App {
    @StateObject private var screen = Screen()  // above the views: it survives rotation
    @Environment(\.scenePhase) private var phase

    var body: some Scene {
        WindowGroup {
            TabView {
                DrawView(screen: screen).tabItem { Label("Draw", systemImage: "paintbrush") }
                ModelView(screen: screen).tabItem { Label("Model", systemImage: "cpu") }
                BenchmarkView(screen: screen).tabItem { Label("Benchmark", systemImage: "stopwatch") }
            }
            .alert("OnDevice", isPresented: messageIsThere) {
                Button("OK") { screen.studio.dismiss() }
            } message: {
                Text(screen.state.message ?? "")
            }
            .onOpenURL { screen.open($0) }
        }
        .onChange(of: phase) { phase in
            if phase == .background { screen.studio.leftTheScreen() }
        }
    }

    private var messageIsThere: Binding<Bool> {
        Binding(get: { screen.state.message != nil }, set: { if !$0 { screen.studio.dismiss() } })
    }
}
