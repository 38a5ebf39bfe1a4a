import DemoStudio
import Metal
import XCTest

@testable import Player

/// What is behind the app's screens: open, draw, cancel, measure, short memory, the background.
final class StudioTests: XCTestCase {
    private let folder = URL(fileURLWithPath: NSTemporaryDirectory()).appendingPathComponent(UUID().uuidString)
    private let phone = PhoneFacts(model: "none", system: "Linux", cores: 1, memoryBytes: 1 << 30)

    override func tearDown() { try? FileManager.default.removeItem(at: folder) }

    /// What the screens were told, and a wait for the end of the work at hand.
    private final class Screen: @unchecked Sendable {
        private let lock = NSLock()
        private let done = DispatchSemaphore(value: 0)
        private var states: [StudioState] = []
        var onState: ((StudioState) -> Void)?

        func show(_ state: StudioState) {
            let wasBusy = lock.withLock { () -> Bool in
                defer { states.append(state) }
                return states.last.map { $0.work != .idle } ?? false
            }
            onState?(state)
            if wasBusy, state.work == .idle { done.signal() }
        }

        func wait() { XCTAssertEqual(done.wait(timeout: .now() + 300), .success) }
        var all: [StudioState] { lock.withLock { states } }
    }

    private func studio(_ screen: Screen) -> Studio {
        Studio(folder: folder, phone: phone) { screen.show($0) }
    }

    private func report(_ studio: Studio, _ request: Request) -> [ReportRow] {
        let told = expectation(description: "report")
        let rows = Rows()
        studio.report(request) {
            rows.found = $0
            told.fulfill()
        }
        wait(for: [told], timeout: 60)
        return rows.found
    }

    private final class Rows: @unchecked Sendable {
        var found: [ReportRow] = []
    }

    func testABundleThatIsNoneIsAMessage() throws {
        let screen = Screen()
        let studio = studio(screen)
        studio.open(Repository.golden)
        screen.wait()
        XCTAssertEqual(studio.state.message?.contains("is not a bundle"), true)
        studio.dismiss()
        XCTAssertNil(studio.state.message)
        studio.open(Repository.golden.appendingPathComponent("bundle/tiny.odpack"))
        screen.wait()
        XCTAssertEqual(studio.state.message?.contains("no pipeline that draws"), true)
        studio.draw(Request(prompt: ""))
        screen.wait()
        XCTAssertEqual(studio.state.message, "no model is open. Fix: open one.")
        XCTAssertTrue(report(studio, Request(prompt: "")).contains { $0.name == "this app" })
    }

    func testPicturesAreDrawnEndedAndMeasured() throws {
        guard let drawn = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"] else {
            throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py")
        }
        let screen = Screen()
        let studio = studio(screen)
        studio.open(URL(fileURLWithPath: drawn).appendingPathComponent("demo.ondevice"))
        screen.wait()
        let model = try XCTUnwrap(studio.state.model)
        XCTAssertEqual(model.sizes.map { [$0.width, $0.height] }, [[64, 64]])
        XCTAssertTrue(model.steps.contains(model.usualSteps))

        let request = Request(prompt: "a red circle", steps: 2, previewEvery: 1)
        studio.draw(request)
        studio.open(Repository.golden)  // one piece of work at a time: this is not heard
        screen.wait()
        let state = studio.state
        XCTAssertNil(state.message)
        XCTAssertEqual(state.picture?.width, 64)
        let file = try Data(contentsOf: try XCTUnwrap(state.pictureFile))
        XCTAssertEqual(Array(file.prefix(4)), [0x89, 0x50, 0x4E, 0x47])
        XCTAssertTrue(screen.all.contains { $0.work == .drawing && $0.secondsLeft != nil })
        XCTAssertTrue(report(studio, request).contains { $0.name == "a picture takes" })

        for (end, words) in [
            ({ studio.cancel() }, nil), ({ studio.memoryIsShort() }, "short of memory"),
            ({ studio.leftTheScreen() }, "left the screen"),
        ] as [(() -> Void, String?)] {
            screen.onState = { if $0.work == .drawing, $0.stage.hasPrefix("step 1") { end() } }
            studio.draw(request)
            screen.wait()
            screen.onState = nil
            XCTAssertEqual(studio.state.message?.contains(words ?? ""), words == nil ? nil : true)
        }
        studio.memoryIsShort()  // nothing is drawn: what is loaded is given back, and drawn with again

        studio.measure(request, repeats: 1) { PhoneState(thermal: "nominal") }
        screen.wait()
        XCTAssertNil(studio.state.message)
        XCTAssertEqual(studio.state.result?.runs.count, 1)
        XCTAssertEqual(try Data(contentsOf: try XCTUnwrap(studio.state.resultFile)).last, 10)
    }
}
