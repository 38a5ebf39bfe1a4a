"""What `make apk-check` holds the Android app to, where it is not the tools' own work."""

import subprocess
import sys
from pathlib import Path

import pytest

TYPES = """
declare module android {
	export module view {
		export class View extends java.lang.Object {
			public static VISIBLE: 0;
			public constructor(context: android.content.Context);
			public setTag(key: number, tag: any): void;
			/** @since 29 */
			public setTransitionAlpha(alpha: number): void;
			public findFocus(): android.view.View | null;
		}
		export module View {
			export class OnClickListener extends java.lang.Object {
				public constructor(implementation: {
					onClick(v: android.view.View): void;
				});
				public onClick(v: android.view.View): void;
			}
		}
	}
	export module widget {
		export class TextView extends android.view.View implements android.view.View.OnClickListener {
			public constructor(context: android.content.Context);
			public setText(text: string, type: android.widget.TextView.BufferType): void;
		}
	}
}
"""


@pytest.fixture
def said(apk_api, tmp_path):
    """`said(reference, base="...", members=[...], constants={...})`: what is wrong with one class that has these."""
    types = tmp_path / "types.d.ts"
    types.write_text(TYPES)

    def call(*references, base="java/lang/Object", members=(), constants=None):
        used = apk_api.ClassFile("dev/Own", [base], list(references), list(members), {})
        host = apk_api.ClassFile("android/view/View", [], [], [], constants or {})
        return apk_api.wrong(types, [used], [host], 24)

    return call


TEXT, VIEW = "android/widget/TextView", "android/view/View"


def test_what_a_phone_has_is_taken(said):
    own = ("dev/Other", "anything", "()V")
    inherited = (TEXT, "findFocus", "()Landroid/view/View;")
    nested = ("android/view/View$OnClickListener", "onClick", "(Landroid/view/View;)V")
    made = (TEXT, "<init>", "(Landroid/content/Context;)V")
    assert not said(own, inherited, nested, made, (VIEW, "setTag", "(ILjava/lang/Object;)V"), constants={"VISIBLE": 0})
    assert not said(base="android/view/View$OnClickListener", members=[("onClick", "(Landroid/view/View;)V")])


@pytest.mark.parametrize(
    "reference, why",
    [
        (("android/view/Viewer", "a", "()V"), "android.view.Viewer is no class of Android"),
        ((VIEW, "setTags", "()V"), "android.view.View.setTags()V is not there"),
        ((VIEW, "setTransitionAlpha", "(F)V"), "android.view.View.setTransitionAlpha(F)V is there since API 29"),
        ((VIEW, "findFocus", "()V"), "android.view.View.findFocus()V takes () and gives android.view.View"),
        ((VIEW, "<init>", "()V"), "android.view.View.<init>()V takes (android.content.Context) and gives void"),
        (("dev/Own", "findFocused", "()V"), "android.widget.TextView.findFocused()V is not there"),
        ((VIEW, "GONE", "I"), "android.view.View.GONE is not there"),
    ],
)
def test_what_a_phone_has_not_is_named(said, reference, why):
    assert said(reference, base=TEXT) == [why]


def test_what_the_system_calls_and_constants_are_looked_up(said):
    members = [("onClicked", "(Landroid/view/View;)V")]
    wrong = said(base="android/view/View$OnClickListener", members=members, constants={"VISIBLE": 1})
    assert wrong == [
        "android.view.View.OnClickListener.onClicked(Landroid/view/View;)V is not there",
        "android.view.View.VISIBLE is 1 on the host and 0 on a phone",
    ]


def test_a_missing_tool_is_not_run_and_never_passed(tmp_path):
    script = Path(__file__).parents[2] / "android_demo" / "app" / "check" / "check.py"
    done = subprocess.run(
        [sys.executable, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 77 and "passed" not in done.stdout
    assert done.stdout.startswith("apk-check: not run: tools are missing. Fix: apt-get install aapt ")
