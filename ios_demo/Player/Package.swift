// swift-tools-version: 5.9
import PackageDescription

// On Linux a module of the name Metal stands in for Apple's (Sources/Metal/README.md), so that the player is built and
// tested without a Mac.
#if os(Linux)
    let standIn: [Target] = [.target(name: "Metal", exclude: ["README.md"])]
    let metal: [Target.Dependency] = ["Metal"]
#else
    let standIn: [Target] = []
    let metal: [Target.Dependency] = []
#endif

let package = Package(
    name: "Player",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "Player", targets: ["Player"]),
        .library(name: "DemoStudio", targets: ["DemoStudio"]),  // what is behind the demo's screens
    ],
    targets: standIn + [
        .target(name: "Player", dependencies: metal),
        .target(name: "DemoStudio", dependencies: ["Player"] + metal),
        .testTarget(name: "PlayerTests", dependencies: ["Player", "DemoStudio"] + metal),
        .testTarget(name: "EmbeddingTests", dependencies: ["Player", "DemoStudio"]),  // by what is public alone
    ]
)
