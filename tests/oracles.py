"""The same mathematics written differently: numpy in float64, loops, definitions."""

import math

import numpy as np

# --- divergences ----------------------------------------------------------------------------------


def rows(function, *arrays):
    """function of one row each, over all the leading axes."""
    arrays = [np.asarray(a, np.float64) for a in arrays]
    shape = arrays[0].shape[:-1]
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    return np.array([function(*row) for row in zip(*flat, strict=True)]).reshape(shape)


def softmax(logits):
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    """sum p log(p/q) of two lists, outcome by outcome."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0 and b == 0:
            return math.inf
        if a > 0:
            total += a * math.log(a / b)
    return total


def entropy(p):
    return -sum(a * math.log(a) for a in p if a > 0)


def cross_entropy(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def total_variation(p, q):
    """The largest difference of probability over all events, by listing the events."""
    best = 0.0
    for event in range(2 ** len(p)):
        members = [i for i in range(len(p)) if event >> i & 1]
        best = max(best, abs(sum(p[i] - q[i] for i in members)))
    return best


def renyi(p, q, alpha):
    return math.log(sum(a**alpha * b ** (1 - alpha) for a, b in zip(p, q, strict=True))) / (
        alpha - 1
    )


def normal_kl(loc, scale, new_loc, new_scale):
    """The textbook form, in extended precision."""
    m, s, n, t = (np.asarray(x, np.longdouble) for x in (loc, scale, new_loc, new_scale))
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def gauss_expectation(function, loc=0.0, scale=1.0, points=200):
    """E_{x ~ N(loc, scale)} by the trapezoidal rule, spectrally accurate here."""
    z = np.linspace(-14, 14, 20 * points + 1)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.sum(density * function(loc + scale * z)) * (z[1] - z[0])


def numerical_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of a vector."""
    x = np.asarray(x, np.float64)
    gradient = np.zeros_like(x)
    for i in range(x.size):
        e = np.zeros_like(x)
        e.flat[i] = step
        gradient.flat[i] = (function(x + e) - function(x - e)) / (2 * step)
    return gradient


# --- losses and advantages ------------------------------------------------------------------------


def clipped_surrogate(log_ratio, advantage, clip_eps):
    """One sample of PPO's loss, case by case."""
    ratio = math.exp(log_ratio)
    held = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
    return -min(ratio * advantage, held * advantage)


def gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """One environment's advantages as explicit sums over the rest of each episode."""
    steps = len(reward)
    advantage = np.zeros(steps)
    for t in range(steps):
        for k in range(t, steps):
            future = 0.0 if terminated[k] else next_value[k]
            advantage[t] += (gamma * lam) ** (k - t) * (reward[k] + gamma * future - value[k])
            if terminated[k] or truncated[k]:
                break
    return advantage


# --- one update of every algorithm ----------------------------------------------------------------
#
# A two-layer policy over 3 inputs and 6 outputs as a function of one flat vector, in numpy alone.
# Everything is analytic in the vector: gradients come from complex steps, exact to rounding.

NUM_INPUTS, NUM_HIDDEN, NUM_OUTPUTS = 3, 5, 6


def outputs(theta, obs):
    """tanh([obs, 1] W) V with a bias row in V: [N, 6]."""
    cut = (NUM_INPUTS + 1) * NUM_HIDDEN
    w = theta[:cut].reshape(NUM_INPUTS + 1, NUM_HIDDEN)
    v = theta[cut:].reshape(NUM_HIDDEN + 1, NUM_OUTPUTS)
    hidden = np.tanh(obs @ w[:-1] + w[-1])
    return hidden @ v[:-1] + v[-1]


def complex_gradient(function, theta, step=1e-30):
    """Im f(theta + i h e_j) / h: no difference, hence no cancellation."""
    columns = []
    for j in range(theta.size):
        moved = theta.astype(complex)
        moved[j] += 1j * step
        columns.append(np.imag(function(moved)) / step)
    return np.stack(columns, -1)


class Softmax:
    """The six outputs as logits of one categorical."""

    @staticmethod
    def log_prob(y, action):
        return y[np.arange(len(y)), action] - np.log(np.exp(y).sum(-1))

    @staticmethod
    def kl(y, z):
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        log_q = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return (np.exp(log_p) * (log_p - log_q)).sum(-1)

    @staticmethod
    def entropy(y):
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        return -(np.exp(log_p) * log_p).sum(-1)

    @staticmethod
    def fisher(y):
        p = softmax(y)
        return np.diag(p) - np.outer(p, p)


class Gaussian:
    """The outputs as three means and three log standard deviations, the latter times 0.3."""

    @staticmethod
    def log_prob(y, action):
        log_std = 0.3 * y[:, 3:]
        z = (action - y[:, :3]) / np.exp(log_std)
        return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    @staticmethod
    def kl(y, z):
        m, s, n, t = y[:, :3], np.exp(0.3 * y[:, 3:]), z[:, :3], np.exp(0.3 * z[:, 3:])
        return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1)

    @staticmethod
    def entropy(y):
        return (0.3 * y[:, 3:] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @staticmethod
    def fisher(y):
        return np.diag([*np.exp(-0.6 * y[3:]), *[2 * 0.3**2] * 3])


class Problem:
    """A batch and what the algorithms compute from it, as functions of the flat parameters."""

    def __init__(self, family, theta, obs, action, advantage):
        self.family, self.theta, self.obs = family, theta, obs
        self.action, self.advantage = action, advantage
        self.old = outputs(theta, obs)

    def rows(self, index):
        data = (x[index] for x in (self.obs, self.action, self.advantage))
        return Problem(self.family, self.theta, *data)

    def mean_kl(self, theta, reverse=False):
        new = outputs(theta, self.obs)
        pair = (new, self.old) if reverse else (self.old, new)
        return self.family.kl(*pair).mean()

    def ratio(self, theta):
        new = outputs(theta, self.obs)
        log_prob = self.family.log_prob
        return np.exp(log_prob(new, self.action) - log_prob(self.old, self.action))

    def mean_entropy(self, theta):
        return self.family.entropy(outputs(theta, self.obs)).mean()

    def gain(self, theta, entropy_coef=0.0):
        policy_gain = (self.ratio(theta) * self.advantage).mean()
        return policy_gain + entropy_coef * self.mean_entropy(theta)

    def clip_loss(self, theta, clip_eps, entropy_coef=0.0):
        ratio, a = self.ratio(theta), self.advantage
        held = np.minimum(np.maximum(np.real(ratio), 1 - clip_eps), 1 + clip_eps)
        # Where the clipped branch is the smaller one, a constant.
        smaller = np.where(np.real(ratio) * a <= held * a, ratio * a, held * a)
        return -smaller.mean() - entropy_coef * self.mean_entropy(theta)

    def drift_loss(self, theta, drift, entropy_coef=0.0):
        """-(r A - D), with D of the ratios, the advantages and the KL of each state."""
        kl = self.family.kl(self.old, outputs(theta, self.obs))
        drifts = drift(self.ratio(theta), self.advantage, kl)
        return drifts.mean() - self.gain(theta, entropy_coef)

    def penalty_loss(self, theta, beta, entropy_coef=0.0, reverse=False):
        return -self.gain(theta, entropy_coef) + beta * self.mean_kl(theta, reverse)

    def fisher(self, stride=1):
        """The dense mean of J' M J, state by state."""
        states = self.obs[::stride]
        jacobian = complex_gradient(lambda theta: outputs(theta, states), self.theta)
        total = 0.0
        for j, y in zip(jacobian, outputs(self.theta, states), strict=True):
            total = total + j.T @ self.family.fisher(y) @ j
        return total / len(states)


def beyond(r, a, low, high):
    """(r - edge) A where r is beyond the edge in the direction of A, else 0; r may be complex."""
    x = np.real(r)
    above, below = (x > 1 + high) & (a > 0), (x < 1 - low) & (a < 0)
    return np.where(above, (r - 1 - high) * a, 0) + np.where(below, (r - 1 + low) * a, 0)


def learned(r, a, alpha, beta):
    gain, fall = (r - 1) * a, np.log(r) * a
    good = np.where(np.real(gain) > 0, gain - alpha * np.tanh(gain / alpha), 0)
    bad = np.where(np.real(fall) > 0, fall - beta * np.tanh(fall / beta), 0)
    return np.where(a >= 0, good, bad)


DRIFTS = {
    "free": lambda r, a, kl: 0 * r,
    "clip": lambda r, a, kl, eps: beyond(r, a, eps, eps),
    "asymmetric": lambda r, a, kl, low, high: beyond(r, a, low, high),
    "dual": lambda r, a, kl, eps, dual: (
        beyond(r, a, eps, eps) + np.where((np.real(r) > dual) & (a < 0), (r - dual) * a, 0)
    ),
    "spo": lambda r, a, kl, eps: np.where(a > 0, a, -a) * (r - 1) ** 2 / (2 * eps),
    "fisher_rao": lambda r, a, kl, tau: (2 * r - 4 * r**0.5 + 2) / tau,
    "learned": lambda r, a, kl, alpha, beta: learned(r, a, alpha, beta),
    "rollback": lambda r, a, kl, eps, slope: (1 + slope) * beyond(r, a, eps, eps),
    "kl_clip": lambda r, a, kl, bound: np.where(np.real(kl) > bound, beyond(r, a, 0, 0), 0),
    "truly": lambda r, a, kl, bound, slope: np.where(
        (np.real(kl) > bound) & (np.real(r) * a > a), slope * (kl - bound), 0
    ),
    "kl": lambda r, a, kl, beta: beta * kl,
    "log": lambda r, a, kl, eta: r * a - np.maximum(a, -1 / eta) * np.log(r) + kl / eta,
    "bounded_kl": lambda r, a, kl, beta, c: beta * c * (1 - np.exp(-kl / c)),
}
"""D of mirror learning, of complex ratios and KLs too."""


def clip_norm(gradient, bound):
    length = math.sqrt((gradient**2).sum())
    return gradient * (bound / length) if length > bound else gradient


def vanilla_pg(problem, learning_rate, entropy_coef=0.0, max_grad_norm=math.inf):
    gradient = complex_gradient(lambda t: problem.gain(t, entropy_coef), problem.theta)
    return problem.theta + learning_rate * clip_norm(gradient, max_grad_norm)


def natural_step(problem, kl, damping, entropy_coef=0.0, stride=1):
    """The step whose damped quadratic model of the KL is exactly ``kl``."""
    gradient = complex_gradient(lambda t: problem.gain(t, entropy_coef), problem.theta)
    metric = problem.fisher(stride) + damping * np.eye(problem.theta.size)
    x = np.linalg.solve(metric, gradient)
    return math.sqrt(2 * kl / (x @ metric @ x)) * x


def trpo(
    problem, max_kl, damping, shrink, max_backtracks, entropy_coef=0.0, stride=1, reverse=False
):
    """New parameters and the number of backtracks, None if every candidate was rejected."""
    step = natural_step(problem, max_kl, damping, entropy_coef, stride)
    before = problem.gain(problem.theta, entropy_coef)
    for k in range(max_backtracks + 1):
        candidate = problem.theta + shrink**k * step
        inside = problem.mean_kl(candidate, reverse) <= max_kl
        if inside and problem.gain(candidate, entropy_coef) > before:
            return candidate, k
    return problem.theta, None


class Adam:
    """Steps of Adam with a bound on the gradient's norm; it remembers both moments."""

    def __init__(self, size, learning_rate, max_grad_norm, epsilon=1e-5):
        self.rate, self.bound, self.epsilon = learning_rate, max_grad_norm, epsilon
        self.first, self.second, self.steps = np.zeros(size), np.zeros(size), 0

    def step(self, loss, theta):
        gradient = clip_norm(complex_gradient(loss, theta), self.bound)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.9**self.steps)
        square = self.second / (1 - 0.999**self.steps)
        return theta - self.rate * mean / (np.sqrt(square) + self.epsilon)


def fixpo(problem, adam, num_epochs, beta, bound, max_fixups):
    """(parameters, passes) of whole-batch steps with a penalty, then of steps that mend them."""

    def largest(theta):
        return problem.family.kl(problem.old, outputs(theta, problem.obs)).max()

    theta, passes, weight = problem.theta, 0, max(beta, 1.0)
    for _ in range(num_epochs):
        theta = adam.step(lambda t: problem.penalty_loss(t, beta), theta)
    while largest(theta) > bound and passes < max_fixups:
        theta = adam.step(lambda t, w=weight: problem.penalty_loss(t, w), theta)
        weight, passes = 2 * weight, passes + 1
    return (theta if largest(theta) <= bound else problem.theta), passes


def adam_epochs(problem, loss, orders, learning_rate, max_grad_norm, epsilon=1e-5):
    """(parameters, both moments) after each epoch; ``loss(part of the problem, theta)``.

    ``orders`` has a list of minibatches, arrays of rows, for each epoch.
    """
    theta, trail = problem.theta, []
    adam = Adam(theta.size, learning_rate, max_grad_norm, epsilon)
    for minibatches in orders:
        for index in minibatches:
            part = problem.rows(index)
            theta = adam.step(lambda t, part=part: loss(part, t), theta)
        trail.append((theta, adam.first, adam.second))
    return trail


def steered(value, kl, stopped, *, target, tolerance, if_above, if_below, low, high):
    """What follows the KL (a penalty's weight, a learning rate), for the next iteration."""
    if stopped or kl > target * tolerance:
        value = value * if_above
    elif kl < target / tolerance:
        value = value * if_below
    return min(max(value, low), high)
