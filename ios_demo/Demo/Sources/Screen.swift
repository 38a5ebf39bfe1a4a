import DemoStudio
import Player
import SwiftUI
import UIKit

/// What the views draw: the studio's state, and what is being typed.
@MainActor
final class Screen: ObservableObject {
    @Published private(set) var state = StudioState()
    @Published var prompt = "a photo of an astronaut riding a horse on mars"
    @Published var negative = ""
    @Published var steps = 20
    @Published var seed = "1"
    @Published var size: StudioState.Size?
    @Published var lowMemory = false
    @Published var repeats = 3

    private(set) var studio: Studio!
    private var opened: URL?  // whose access is held: its pages are read for as long as it is open
    private static let bookmark = "bundle"

    init() {
        UIDevice.current.isBatteryMonitoringEnabled = true
        let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]
        studio = Studio(folder: documents, phone: Screen.phone) { [weak self] _ in
            // The newest state, whichever of these comes first.
            Task { @MainActor [weak self] in self?.show() }
        }
        NotificationCenter.default.addObserver(
            forName: UIApplication.didReceiveMemoryWarningNotification, object: nil, queue: nil
        ) { [studio] _ in studio?.memoryIsShort() }
        reopen()
    }

    private func show() {
        let state = studio.state
        if let model = state.model, model != self.state.model {
            steps = model.usualSteps
            size = model.sizes.first
        }
        // A picture is worth keeping the screen on for: in the background it would end.
        UIApplication.shared.isIdleTimerDisabled = state.work == .drawing || state.work == .measuring
        self.state = state
    }

    var isBusy: Bool { state.work != .idle }

    /// What the fields say.
    var request: Request {
        Request(
            prompt: prompt, negativePrompt: negative.isEmpty ? nil : negative, steps: steps, seed: UInt64(seed) ?? 0,
            width: size?.width, height: size?.height, emphasis: .mean, longTexts: .fit, previewEvery: 1,
            lowMemory: lowMemory)
    }

    // Files -----------------------------------------------------------------------------------------------------------

    /// Open a bundle that the file picker or another app gave.
    func open(_ url: URL) {
        guard !isBusy else { return }
        let isScoped = url.startAccessingSecurityScopedResource()
        opened?.stopAccessingSecurityScopedResource()
        opened = isScoped ? url : nil
        if let data = try? url.bookmarkData() { UserDefaults.standard.set(data, forKey: Screen.bookmark) }
        studio.open(url)
    }

    /// The bundle of the last time.
    private func reopen() {
        var isStale = false
        guard let data = UserDefaults.standard.data(forKey: Screen.bookmark),
            let url = try? URL(resolvingBookmarkData: data, bookmarkDataIsStale: &isStale)
        else { return }
        open(url)
    }

    // The phone -------------------------------------------------------------------------------------------------------

    private static var phone: PhoneFacts {
        var facts = utsname()
        uname(&facts)
        let model = withUnsafeBytes(of: &facts.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let device = UIDevice.current
        let process = ProcessInfo.processInfo
        return PhoneFacts(
            model: model, system: "\(device.systemName) \(device.systemVersion)", cores: process.processorCount,
            memoryBytes: Int(process.physicalMemory))
    }

    /// Asked from the thread that measures.
    nonisolated static func phoneState() -> PhoneState {
        let thermal: String
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: thermal = "nominal"
        case .fair: thermal = "fair"
        case .serious: thermal = "serious"
        default: thermal = "critical"
        }
        return DispatchQueue.main.sync {
            MainActor.assumeIsolated {
                let device = UIDevice.current
                let level = device.batteryLevel  // -1 where it is not known
                return PhoneState(
                    thermal: thermal, batteryPercent: level < 0 ? nil : Double(level) * 100,
                    charging: device.batteryState == .unknown ? nil : device.batteryState != .unplugged)
            }
        }
    }
}

extension Pixels {
    /// For a view.
    var image: UIImage? {
        guard let provider = CGDataProvider(data: Data(bytes) as CFData),
            let space = CGColorSpace(name: CGColorSpace.sRGB)
        else { return nil }
        let info = CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue)
        let image = CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: width * 3, space: space,
            bitmapInfo: info, provider: provider, decode: nil, shouldInterpolate: true, intent: .defaultIntent)
        return image.map { UIImage(cgImage: $0) }
    }
}
