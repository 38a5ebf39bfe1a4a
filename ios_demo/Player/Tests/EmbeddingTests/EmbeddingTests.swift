import DemoStudio
import Foundation
import Player
import XCTest

/// The package as an app sees it, by what is public: the lines of the README, and what the demo's views ask for.
final class EmbeddingTests: XCTestCase {
    func testTheReadmesLines() throws {
        guard let folder = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"] else {
            throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py")
        }
        let pipeline = try Pipeline(bundle: URL(fileURLWithPath: folder).appendingPathComponent("demo.ondevice"))
        let done = expectation(description: "drawn")
        DispatchQueue.global(qos: .userInitiated).async {
            do {
                let drawn = try pipeline.draw(Request(prompt: "a red fox in the snow", steps: 1, seed: 1)) { step in
                    XCTAssertFalse(step.stage.isEmpty && (step.secondsLeft ?? 0) > 0)
                }
                XCTAssertGreaterThan(Data(drawn.png).count, 100)
            } catch { XCTFail("\(error)") }
            done.fulfill()
        }
        wait(for: [done], timeout: 300)
        XCTAssertGreaterThan(try pipeline.memory(Request(prompt: "")).arena, 0)
        pipeline.unload()
    }

    func testWhatTheViewsAskFor() {
        let state = StudioState()
        XCTAssertTrue(state.work == .idle && state.model?.sizes.first?.width == nil && state.model?.steps == nil)
        XCTAssertTrue(state.preview?.bytes == nil && state.picture?.height == nil && state.message == nil)
        XCTAssertTrue(state.model?.adapters.first?.name == nil && state.model?.adapters.first?.scale == nil)
        XCTAssertTrue(state.model?.takesControl == nil && state.model?.decodesFast == nil)
        XCTAssertTrue(state.result?.ops.first?.seconds == nil && state.result?.peakBytes == nil)
        let phone = PhoneFacts(model: "none", system: "Linux", cores: 1, memoryBytes: 1)
        let studio = Studio(folder: URL(fileURLWithPath: "/nowhere"), phone: phone) { _ in }
        var request = Request(
            prompt: "", negativePrompt: nil, steps: 1, seed: 0, width: 64, height: 64, emphasis: .mean, longTexts: .fit,
            adapters: [("ink", 0.5)], fast: true, previewEvery: 1, lowMemory: true)
        request.pictures["control"] = Pixels(width: 1, height: 1, bytes: [0, 0, 0])
        request.canny = Thresholds(100, 200)
        request.previewBy = .fast
        let told = expectation(description: "report")
        studio.report(request) { rows in
            XCTAssertTrue(rows.contains { $0.id == $0.name && !$0.value.isEmpty })
            told.fulfill()
        }
        wait(for: [told], timeout: 60)
        studio.cancel()
        studio.dismiss()
        XCTAssertNotNil(PlayerError(.usage, "what", at: "where", fix: "do").errorDescription)
    }
}
