package android.animation;

public class StateListAnimator {}
