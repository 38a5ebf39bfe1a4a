import DemoStudio
import PhotosUI
import Player
import SwiftUI

/// A picture, and what it is drawn from.
@MainActor
struct DrawView: View {
    @ObservedObject var screen: Screen
    @FocusState private var isTyping: Bool
    @State private var chosen: PhotosPickerItem?

    var body: some View {
        NavigationStack {
            Form {
                Section { picture }
                Section { texts }
                Section { settings }
                if let model = screen.state.model, !model.adapters.isEmpty {
                    Section("Adapter") { adapters(model.adapters) }
                }
                if screen.state.model?.takesControl == true { Section("Control picture") { control } }
            }
            .navigationTitle(screen.state.model?.name ?? "No model")
            .toolbar {
                ToolbarItemGroup(placement: .keyboard) {
                    Spacer()
                    Button("Done") { isTyping = false }
                }
            }
        }
    }

    @ViewBuilder private var picture: some View {
        if let pixels = screen.state.preview ?? screen.state.picture, let image = pixels.image {
            Image(uiImage: image).resizable().scaledToFit().frame(maxWidth: .infinity)
                .accessibilityLabel(screen.prompt)
        }
        if screen.state.work == .drawing {
            WorkView(state: screen.state)
            Button("Cancel", role: .cancel) { screen.studio.cancel() }
        } else {
            Button("Draw") {
                isTyping = false
                screen.studio.draw(screen.request)
            }
            .disabled(screen.isBusy || screen.state.model == nil)
            if let file = screen.state.pictureFile { ShareLink("Save or share", item: file) }
        }
        if screen.state.model == nil {
            Text(screen.state.work == .opening ? screen.state.stage : "Open a model in the tab Model.")
                .foregroundStyle(.secondary)
        }
    }

    @ViewBuilder private var texts: some View {
        TextField("Prompt", text: $screen.prompt, axis: .vertical).lineLimit(2...6).focused($isTyping)
        TextField("What not to draw", text: $screen.negative, axis: .vertical).lineLimit(1...4).focused($isTyping)
    }

    @ViewBuilder private var settings: some View {
        Picker("Steps", selection: $screen.steps) {
            ForEach(screen.state.model?.steps ?? [screen.steps], id: \.self) { Text("\($0)").tag($0) }
        }
        Picker("Size", selection: $screen.size) {
            ForEach(screen.state.model?.sizes ?? [], id: \.self) { size in
                Text(verbatim: "\(size.width) x \(size.height)").tag(Optional(size))
            }
        }
        HStack {
            Text("Seed")
            TextField("Seed", text: $screen.seed).keyboardType(.numberPad).multilineTextAlignment(.trailing)
                .focused($isTyping)
            Button {
                screen.seed = "\(UInt32.random(in: 0...UInt32.max))"
            } label: {
                Image(systemName: "dice")
            }
            .accessibilityLabel("Another seed")
        }
        Toggle("Less memory, slower", isOn: $screen.lowMemory)
        if screen.state.model?.decodesFast == true { Toggle("Fast decoder, less exact", isOn: $screen.isFast) }
    }

    @ViewBuilder private func adapters(_ adapters: [StudioState.Adapter]) -> some View {
        Picker("Adapter", selection: Binding(get: { screen.adapter }, set: { screen.choose(adapter: $0) })) {
            Text("None").tag("")
            ForEach(adapters, id: \.name) { Text($0.name).tag($0.name) }
        }
        if !screen.adapter.isEmpty {
            LabeledContent("Strength", value: "\(Int((screen.strength * 100).rounded())) %")
            Slider(value: $screen.strength, in: 0...2) { Text("Strength") }
        }
    }

    /// What a ControlNet looks at while the picture is drawn.
    @ViewBuilder private var control: some View {
        PhotosPicker("Choose a picture", selection: $chosen, matching: .images)
            .onChange(of: chosen) { item in
                guard let item else { return }
                Task { @MainActor in
                    screen.control = (try? await item.loadTransferable(type: Data.self)).flatMap { Pixels(data: $0) }
                }
            }
        if let image = screen.control?.image {
            Image(uiImage: image).resizable().scaledToFit().frame(maxHeight: 160).accessibilityLabel("Control picture")
            Toggle("Its edges", isOn: $screen.tracesEdges)
            Button("Without it", role: .destructive) { (screen.control, chosen) = (nil, nil) }
        }
    }
}

/// How far the work at hand is.
@MainActor
struct WorkView: View {
    let state: StudioState

    var body: some View {
        VStack(alignment: .leading) {
            ProgressView(value: min(state.fraction, 1))
            HStack {
                Text(state.stage)
                Spacer()
                if let seconds = state.secondsLeft { Text("\(Int(seconds.rounded(.up))) s left") }
            }
            .font(.footnote).foregroundStyle(.secondary).monospacedDigit()
        }
    }
}
