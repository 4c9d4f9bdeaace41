"""Running a program: the interpreter, sessions and the policy at release."""
