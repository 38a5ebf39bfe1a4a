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
    /// Of the model's adapters; empty: none.
    @Published var adapter = ""
    /// How much of the adapter; 1 is all.
    @Published var strength = 1.0
    @Published var isFast = false
    /// What a ControlNet looks at, and whether at its edges.
    @Published var control: Pixels?
    @Published var tracesEdges = true
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
            if !model.adapters.contains(where: { $0.name == adapter }) { adapter = "" }
        }
        // A picture is worth keeping the screen on for: in the background it would end.
        UIApplication.shared.isIdleTimerDisabled = state.work == .drawing || state.work == .measuring
        self.state = state
    }

    var isBusy: Bool { state.work != .idle }

    /// What the fields say. A preview a tenth of the way, and at least each fifth step.
    var request: Request {
        var request = Request(
            prompt: prompt, negativePrompt: negative.isEmpty ? nil : negative, steps: steps, seed: UInt64(seed) ?? 0,
            width: size?.width, height: size?.height, emphasis: .mean, longTexts: .fit,
            fast: isFast && state.model?.decodesFast == true, previewEvery: max(1, min(5, steps / 10)),
            lowMemory: lowMemory)
        if !adapter.isEmpty { request.adapters = [(name: adapter, scale: strength)] }
        if let control, state.model?.takesControl == true {
            request.pictures["control"] = control
            if tracesEdges { request.canny = Thresholds(100, 200) }
        }
        return request
    }

    /// Choose an adapter, at its usual strength.
    func choose(adapter name: String) {
        adapter = name
        if let chosen = state.model?.adapters.first(where: { $0.name == name }) { strength = chosen.scale }
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
    /// Of a picture from the library, upright, transparent parts on white, at most 2,048 pixels a side; nil where it is
    /// none.
    init?(data: Data) {
        guard let image = UIImage(data: data), let space = CGColorSpace(name: CGColorSpace.sRGB) else { return nil }
        let shrink = min(1, 2048 / max(image.size.width * image.scale, image.size.height * image.scale, 1))
        let width = Int(image.size.width * image.scale * shrink)
        let height = Int(image.size.height * image.scale * shrink)
        guard width > 0, height > 0 else { return nil }
        var rgbx = [UInt8](repeating: 255, count: width * height * 4)  // white below
        let isDrawn = rgbx.withUnsafeMutableBytes { bytes -> Bool in
            guard
                let context = CGContext(
                    data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
                    space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            // UIKit's pictures begin at the top.
            context.translateBy(x: 0, y: CGFloat(height))
            context.scaleBy(x: 1, y: -1)
            UIGraphicsPushContext(context)
            image.draw(in: CGRect(x: 0, y: 0, width: width, height: height))
            UIGraphicsPopContext()
            return true
        }
        guard isDrawn else { return nil }
        let bytes = (0..<width * height * 3).map { rgbx[$0 / 3 * 4 + $0 % 3] }
        self.init(width: width, height: height, bytes: bytes)
    }

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
