package dev.ondevice.player;

import java.util.concurrent.CountDownLatch;

/** The Java library through JNI, with a player that draws nothing: `PlayerCheck NAME BUNDLE [DESCRIPTOR]`. */
public final class PlayerCheck {
    private final Player player;

    private PlayerCheck(Player player) {
        this.player = player;
    }

    public static void main(String[] args) throws Exception {
        Options options = new Options().bundle(args[1]).cache("");
        if (args.length > 2) {
            options = new Options().descriptor(Integer.parseInt(args[2]), "picked").cache("");
        }
        try (Player player = Player.open(options)) {
            PlayerCheck.class.getDeclaredMethod(args[0]).invoke(new PlayerCheck(player));
        } catch (PlayerException refused) {
            System.out.println(refused.code + " " + refused.getMessage());
            return;
        }
        System.out.println("passed");
    }

    private static void same(Object got, Object expected) {
        if (!expected.equals(got)) {
            throw new AssertionError("got " + got + ", expected " + expected);
        }
    }

    void passesAllThatIsAsked() throws Exception {
        Request request = new Request("\ud83d\ude00 \u00e9").negative("").steps(2).seed(-3).size(64, 32);
        request.numbers.put("guidance_scale", 7.5);
        request.lowMemory = true;
        request.image = new byte[3 * 2];
        request.imageWidth = 2;
        request.imageHeight = 1;
        request.mask = new byte[3];
        request.maskWidth = request.maskHeight = 1;
        request.seedMode = 1;
        request.emphasis = 2;
        request.longTexts = 1;
        request.pictures.put("control", new Request.Pixels(new byte[6], 1, 2).edges(50, 100));
        request.adapters.put("\u00e9", -0.5);
        request.fast = true;
        request.previewBy = 2;
        Picture picture = player.draw(request, null);
        same(picture.parameters, "\ud83d\ude00 \u00e9\nnegative_prompt: \nguidance_scale: 7.5\n"
                + "steps 2, seed -3, 64x32, low_memory 1, pictures 3, ways 121, unloads 0"
                + "\ncontrol 1x2 50,100\nadapter \u00e9 -0.5\nfast 1, previews 2");
        same(picture.rgb.length + " " + picture.deviceBytes, 3 * 64 * 32 + " 3000000");
        same(new String(picture.png, "UTF-8"), picture.parameters);
        same(picture.secondsToFirstStep + picture.secondsOfSteps + picture.secondsOfDecoder, 2.75);
    }

    void refusesWhatIsNoRequest() throws Exception {
        Request image = new Request("a");
        image.image = new byte[5];
        image.imageWidth = 2;
        image.imageHeight = 1;
        Request many = new Request("a");
        for (int i = 0; i < 17; i++) {
            many.numbers.put("number " + i, 1.0);
        }
        refused(new Request("a\0b"), "prompt: holds a zero character. Fix: take it out.");
        refused(image, "image: is not pixels (got 5 bytes for 2x1, expected 3 per pixel). Fix: give red, green and blue"
                + " of each pixel.");
        refused(many, "request: has too many texts, numbers, pictures or adapters. Fix: give at most 16 of each.");
    }

    private void refused(Request request, String message) throws Exception {
        try {
            player.draw(request, null);
        } catch (PlayerException expected) {
            same(expected.code + " " + expected.getMessage(), "2 " + message);
            return;
        }
        throw new AssertionError("drawn, instead of: " + message);
    }

    /** What a Watch throws ends the drawing and comes out of it; the next drawing is as any. */
    void throwsOnWhatAWatchThrows() throws Exception {
        final int[] heard = {0};
        Watch watch = new Watch() {
            @Override
            public void progress(int done, int calls, double secondsLeft, String stage) {
                heard[0]++;
                try {
                    player.unload();
                } catch (PlayerException closed) {
                    throw new AssertionError(closed);
                }
            }

            @Override
            public void preview(int done, byte[] rgb, int width, int height) {
                throw new AssertionError("after an exception");
            }
        };
        try {
            player.draw(new Request("slow").steps(5).previewEvery(1), watch);
            throw new AssertionError("drawn");
        } catch (IllegalStateException expected) {
            same(heard[0], 1);
        }
        player.draw(new Request("a").steps(1), null);
    }

    /** Android has room for 512 local references in one native call. */
    void hearsOfAThousandSteps() throws Exception {
        final int[] heard = {0, 0};
        player.draw(new Request("a").steps(1000).previewEvery(1), new Watch() {
            @Override
            public void progress(int done, int calls, double secondsLeft, String stage) {
                heard[0]++;
            }

            @Override
            public void preview(int done, byte[] rgb, int width, int height) {
                same(rgb.length + " " + rgb[95], 96 + " " + (byte) done);
                heard[1]++;
            }
        });
        same(heard[0] + heard[1], 2002);
    }

    void closesWhileAnotherThreadDraws() throws Exception {
        final CountDownLatch begun = new CountDownLatch(1);
        final int[] codes = {0};
        Thread drawing = new Thread() {
            @Override
            public void run() {
                try {
                    player.draw(new Request("slow").steps(5), new Watch() {
                        @Override
                        public void progress(int done, int calls, double secondsLeft, String stage) {
                            begun.countDown();
                        }

                        @Override
                        public void preview(int done, byte[] rgb, int width, int height) {}
                    });
                } catch (PlayerException ended) {
                    codes[0] = ended.code;
                }
            }
        };
        drawing.start();
        begun.await();
        player.close();
        drawing.join();
        same(codes[0], PlayerException.CANCELLED);
        player.cancel();
        player.close();
        refused(new Request("a"), "player: is closed. Fix: open the bundle again.");
    }
}
